from __future__ import annotations

import json

import numpy as np
import pytest

from kdeploy.errors import ModelError
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.fake import Fake


def _opened(path, **settings):
    path.write_text(json.dumps({"latency_seconds": 0, **settings}))
    runtime = Fake()
    runtime.open(path)
    return runtime


def test_files_of_one_seed_predict_the_same_and_of_another_do_not(tmp_path):
    batch = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    a, b, c = (_opened(tmp_path / f"{i}.onnx", seed=seed) for i, seed in enumerate((1, 1, 2)))
    np.testing.assert_array_equal(first(a.infer(batch)), first(b.infer(batch)))
    assert np.abs(first(a.infer(batch)) - first(c.infer(batch))).max() > 0.1


def test_reads_an_artefact_folder_and_takes_anything_else_as_defaults(tmp_path):
    (tmp_path / "fake.json").write_text('{"classes": 3}')
    folder, text = Fake(), Fake()
    folder.open(tmp_path)
    (tmp_path / "real.onnx").write_bytes(b"\x08\x09")
    text.open(tmp_path / "real.onnx")
    batch = np.ones((1, 4), np.float32)
    assert (first(folder.infer(batch)).shape, first(text.infer(batch)).shape) == ((1, 3), (1, 10))


def test_a_fault_strikes_at_its_call(tmp_path):
    runtime = _opened(tmp_path / "f.onnx", fault="error", fault_at=1)
    first(runtime.infer(np.ones((1, 4), np.float32)))
    with pytest.raises(RuntimeError, match="fault"):
        first(runtime.infer(np.ones((1, 4), np.float32)))


def test_an_unknown_key_lists_the_known_ones(tmp_path):
    with pytest.raises(ModelError, match="latency_seconds"):
        _opened(tmp_path / "f.onnx", latency=1)


def test_proves_what_its_file_says(tmp_path):
    proof = _opened(tmp_path / "f.onnx", eligible=4, integer=3, is_quantized=True).proof_of_use()
    assert proof.integer_kernels == 0.75
