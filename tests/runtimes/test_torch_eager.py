from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.errors import ModelError, Unavailable
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.torch_eager import TorchEager
from kdeploy.store.artifact import write_manifest


@pytest.fixture(autouse=True)
def _restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_computes_what_the_stored_model_computes(store_model, tiny_model):
    model = tiny_model()
    runtime = TorchEager(threads=1)
    runtime.open(store_model(model))
    batch = np.random.default_rng(0).normal(size=(3, 1, 12, 12)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(first(runtime.infer(batch)), expected, rtol=1e-6, atol=1e-6)
    proof = runtime.proof_of_use()
    assert proof.integer_kernels == 0.0
    assert not proof.is_quantized


def test_threads_are_those_asked_for():
    TorchEager(threads=2)
    assert torch.get_num_threads() == 2


def test_int8_is_refused_because_it_would_be_emulated(tmp_path):
    entry = {"build": "build.py:net", "wrapper": {"name": "pt2e", "state": {}}}
    write_manifest(tmp_path, {"id": "0123456789ab", "kind": "torch", "label": "q", "model": entry})
    with pytest.raises(Unavailable, match="would emulate the INT8"):
        TorchEager(threads=1).open(tmp_path)


def test_a_wrong_shape_is_named(store_model, tiny_model):
    runtime = TorchEager(threads=1)
    runtime.open(store_model(tiny_model()))
    with pytest.raises(ModelError, match=r"\[1, 5, 12, 12\]"):
        first(runtime.infer(np.zeros((1, 5, 12, 12), np.float32)))
