"""Metrics of tasks are those of the libraries that define them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

torchmetrics = pytest.importorskip("torchmetrics")
from torchmetrics.functional import (  # noqa: E402
    classification,
    retrieval,
    text,
)

from kdeploy.metrics.ctc_cer import ctc_cer  # noqa: E402
from kdeploy.metrics.ctc_wer import ctc_wer  # noqa: E402
from kdeploy.metrics.miou import miou  # noqa: E402
from kdeploy.metrics.multi_label_f1_macro import multi_label_f1_macro  # noqa: E402
from kdeploy.metrics.multi_label_f1_micro import multi_label_f1_micro  # noqa: E402
from kdeploy.metrics.multi_label_map import multi_label_map  # noqa: E402
from kdeploy.metrics.pixel_accuracy import pixel_accuracy  # noqa: E402
from kdeploy.metrics.recall_at_1 import recall_at_1  # noqa: E402
from kdeploy.metrics.tokens_f1 import tokens_f1  # noqa: E402

RNG = np.random.default_rng(3)


def test_multi_label_metrics():
    predicted = RNG.random((60, 4)).astype(np.float32)
    expected = (RNG.random((60, 4)) < 0.3).astype(np.int64)
    own, true = torch.from_numpy(predicted), torch.from_numpy(expected)
    options = {"num_labels": 4}
    known = classification.multilabel_average_precision(own, true, average="macro", **options)
    assert multi_label_map(predicted, expected) == pytest.approx(float(known), abs=1e-6)
    for average, metric in (("macro", multi_label_f1_macro), ("micro", multi_label_f1_micro)):
        known = classification.multilabel_f1_score(own, true, average=average, **options)
        assert metric(predicted, expected) == pytest.approx(float(known), abs=1e-6)


def test_what_nobody_knows_counts_nowhere():
    predicted, expected = RNG.random((40, 2)), (RNG.random((40, 2)) < 0.4).astype(np.int64)
    known = multi_label_map(predicted[:30], expected[:30])
    expected[30:] = -1
    assert multi_label_map(predicted, expected) == pytest.approx(known)


def test_masks():
    predicted, expected = RNG.integers(0, 4, (2, 5, 6, 6))
    expected[:, 0] = 255
    own, true = torch.from_numpy(predicted), torch.from_numpy(expected)
    options = {"num_classes": 4, "ignore_index": 255}
    known = classification.multiclass_jaccard_index(own, true, average="macro", **options)
    assert miou(predicted, expected) == pytest.approx(float(known), abs=1e-6)
    known = classification.multiclass_accuracy(own, true, average="micro", **options)
    assert pixel_accuracy(predicted, expected) == pytest.approx(float(known), abs=1e-6)


def test_the_mean_over_the_whole_set_is_not_the_mean_over_images():
    predicted = np.zeros((2, 1, 4), np.int64)
    expected = np.array([[[0, 0, 0, 0]], [[1, 1, 1, 0]]])
    assert miou(predicted, expected) == pytest.approx((5 / 8 + 0) / 2)


def test_texts():
    own, true = ["the cat", "a dog ran"], ["the cats", "a dog"]
    assert ctc_cer(own, true) == pytest.approx(float(text.char_error_rate(own, true)))
    assert ctc_wer(own, true) == pytest.approx(float(text.word_error_rate(own, true)))


def test_the_nearest_other_item():
    vectors = RNG.normal(size=(30, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = np.arange(30) % 3
    similar = torch.from_numpy(vectors @ vectors.T)
    hits = [
        retrieval.retrieval_precision(
            torch.cat([similar[i, :i], similar[i, i + 1 :]]),
            torch.from_numpy(np.delete(groups, i) == groups[i]),
            top_k=1,
        )
        for i in range(30)
    ]
    assert recall_at_1(vectors, groups) == pytest.approx(float(torch.stack(hits).mean()))


def test_entities_are_those_of_conlleval():
    classes = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    true = np.array([[1, 2, 0, 3, 4, -100], [0, 1, 1, 0, 2, 0]])
    # One right of two in the first; in the second two of three persons, one of them too long.
    own = np.array([[1, 2, 0, 3, 0, 0], [0, 1, 1, 0, 0, 0]])
    # True: PER(0,2) LOC(3,5) | PER(1,2) PER(2,3) PER(4,5); found: PER LOC(3,4) | PER PER.
    assert tokens_f1(own, true, classes=classes) == pytest.approx(2 * 3 / (4 + 5))
    assert tokens_f1(true, true, classes=classes) == 1.0
