from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.errors import Unavailable
from kdeploy.quantization.pt2e import QuantizedModel, observe
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.torch_int8 import TorchInt8


@pytest.fixture
def quantized(tiny_model, tiny_data):
    """Return the tiny network on the integers of the `cpu` profile, and a batch for it."""
    x = torch.from_numpy(tiny_data.preprocessing.apply(tiny_data.validation.x[:16]))
    ranges = observe(tiny_model(), x[:2], [x], choice="min_max")
    return QuantizedModel(tiny_model(), x[:2], ranges=ranges, profile="cpu"), x


def opened(path, **options):
    runtime = TorchInt8(**options)
    runtime.open(path)
    return runtime


def check(runtime, quantized, tolerance):
    model, x = quantized
    with torch.no_grad():
        expected = model.with_profile("tensorrt")(x).numpy()
    found = first(runtime.infer(x.numpy()))
    np.testing.assert_allclose(found, expected, atol=tolerance * np.ptp(expected))
    proof = runtime.proof_of_use()
    assert (proof.integer, proof.eligible, proof.is_quantized) == (7, 8, True)
    rows = {row["name"]: row for row in proof.layers}
    assert rows["head"]["kernel"].startswith("int8 ")
    assert "groups" in rows["depthwise"]["why"]
    return rows


def test_dry_an_artefact_of_any_profile_runs_in_the_symmetric_encoding(dry, quantized, store_model):
    runtime = opened(store_model(quantized[0]), precision="fp32", cuda_graph=False)
    check(runtime, quantized, 1e-5)
    assert runtime.device_seconds() > 0


def test_a_float_artefact_is_refused(dry, store_model, tiny_model):
    with pytest.raises(Unavailable, match="no codes") as caught:
        opened(store_model(tiny_model()))
    assert "int8_ptq" in caught.value.hint


@pytest.mark.gpu
@pytest.mark.usefixtures("_restore_gpu_settings")
@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-2), ("fp16", 3e-2)])
def test_answers_as_the_quantized_model(quantized, store_model, precision, tolerance, cuda_graph):
    runtime = opened(store_model(quantized[0]), precision=precision, cuda_graph=cuda_graph)
    rows = check(runtime, quantized, tolerance)
    assert "failed" not in rows["head"]["why"], rows
    assert rows["head"]["why"].count("triton") >= 1
