"""The life of a model on the GPU, on the processor: `benchmarks.shared.dry_run`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.errors import Unavailable
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.torch_gpu import TorchGpu

BATCH = np.random.default_rng(0).normal(size=(2, 1, 12, 12)).astype(np.float32)


def loaded(path, *, precision="bf16", channels_last=True):
    gpu = TorchGpu(precision=precision, cuda_graph=False)
    gpu.load(path, "torch_cuda", channels_last=channels_last)
    return gpu


def test_a_float_model_has_the_numbers_and_the_layout_asked_for(dry, store_model, tiny_model):
    gpu = loaded(store_model(tiny_model(width=8), width=8))
    weights = [p for p in gpu.model.parameters() if p.dim() == 4]
    assert {p.dtype for p in gpu.model.parameters()} == {torch.bfloat16}
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    assert not gpu.model.training


def test_a_model_that_is_placed_gets_its_input_as_it_comes(dry, tmp_path):
    seen = []

    class Sees(torch.nn.Module):
        def forward(self, x):
            seen.append(x.dtype)
            return x

    gpu = TorchGpu(precision="fp16", cuda_graph=False)
    gpu.place(Sees())
    gpu.start(tmp_path)
    np.testing.assert_array_equal(first(gpu.infer(BATCH)), BATCH)
    assert seen == [torch.float32]


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_what_it_was_told_is_in_its_settings(dry, store_model, tiny_model, precision):
    path = store_model(tiny_model())
    gpu = loaded(path, precision=precision)
    gpu.start(path)
    is_rounded = precision == "tf32"
    tf32 = {"matmul": is_rounded, "convolution": is_rounded}
    assert gpu.settings() == {"precision": precision, "cuda_graph": False, "tf32": tf32}


def test_closed_it_holds_nothing_and_is_called_no_more(dry, store_model, tiny_model):
    path = store_model(tiny_model())
    gpu = loaded(path)
    gpu.start(path)
    first(gpu.infer(BATCH))
    gpu.close()
    assert gpu.model is None
    with pytest.raises(AssertionError, match="before open"):
        first(gpu.infer(BATCH))


def test_a_quantized_artefact_is_sent_to_the_runtime_on_integers(dry, tmp_path):
    from kdeploy.store.artifact import write_manifest

    entry = {"build": "build.py:net", "wrapper": {"name": "pt2e", "state": {}}}
    write_manifest(tmp_path, {"id": "0123456789ab", "kind": "torch", "label": "q", "model": entry})
    with pytest.raises(Unavailable, match="torch_cuda would emulate") as caught:
        loaded(tmp_path)
    assert "torch_int8" in caught.value.hint
