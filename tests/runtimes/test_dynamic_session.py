"""A dynamic model in ONNX Runtime: the same as asking its parts by hand, row by row."""

from __future__ import annotations

import numpy as np
import pytest

from kdeploy.runtimes.dynamic_session import DynamicSession, clear_rows, scores
from kdeploy.runtimes.onnx_options import cpu_options
from kdeploy.runtimes.run import open_runtime
from tests.tiny.dynamic import FEATURES, expected, write_cascade


@pytest.fixture
def cascade(tmp_path):
    path = tmp_path / "model.dynamic"
    return path, write_cascade(path)


@pytest.fixture
def items():
    return np.random.default_rng(0).normal(size=(40, FEATURES)).astype(np.float32)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_each_row_is_answered_by_the_part_that_is_sure_of_it(cascade, items, size):
    path, matrices = cascade
    logits, by = expected(items, matrices)
    assert 5 < sum(by) < 35, "both ways are taken"
    opened = open_runtime("onnxruntime_cpu", path, threads=1)
    found, early = [], []
    for start in range(0, len(items), size):
        found.append(opened.infer(items[start : start + size])["logits"])
        early += opened.is_early.tolist()
    np.testing.assert_allclose(np.concatenate(found), logits, rtol=1e-4, atol=1e-5)
    assert early == [part == 0 for part in by]


def test_its_score_is_the_largest_probability():
    logits = np.array([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]], np.float32)
    shares = np.exp(logits / 2) / np.exp(logits / 2).sum(1, keepdims=True)
    np.testing.assert_allclose(scores(logits, 2.0), shares.max(1), rtol=1e-6)


def test_an_answer_that_is_no_number_goes_on(cascade):
    path, _ = cascade
    opened = open_runtime("onnxruntime_cpu", path, threads=1)
    opened.infer(np.full((1, FEATURES), np.nan, np.float32))
    assert opened.is_early.tolist() == [False]


def test_its_proof_counts_the_operators_of_all_parts(cascade):
    proof = open_runtime("onnxruntime_cpu", cascade[0], threads=1).proof_of_use()
    assert proof.operators == {"MatMul": 2}
    assert proof.settings["thresholds"] == [0.7, None]


def test_golden_rows_are_of_both_parts_and_far_from_the_threshold(cascade, items):
    path, matrices = cascade
    rows = clear_rows(path, items, 6)
    _, by = expected(items[rows], matrices)
    assert set(by) == {0, 1}
    for threshold in (0.6, 0.78):  # an e-th of the odds away from 0.7, and nearer
        assert expected(items[rows], matrices, threshold=threshold)[1] == by


def test_all_parts_can_be_asked_for_all_rows(cascade, items):
    import onnxruntime

    path, matrices = cascade
    session = DynamicSession(
        path, lambda: cpu_options(onnxruntime, threads=1), ["CPUExecutionProvider"]
    )
    for found, matrix in zip(session.infer_all(items), matrices, strict=True):
        np.testing.assert_allclose(found, items @ matrix, rtol=1e-4, atol=1e-5)
