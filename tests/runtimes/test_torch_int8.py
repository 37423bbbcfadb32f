from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.errors import Unavailable
from kdeploy.kernels.int8_layers import Epilogue, IntegerLayer, IntMm, codes_of
from kdeploy.kernels.windows import window_of_layer
from kdeploy.quantization.pt2e import QuantizedModel, observe
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
    found = runtime.infer(x.numpy())
    np.testing.assert_allclose(found, expected, atol=tolerance * np.ptp(expected))
    proof = runtime.proof_of_use()
    assert (proof.integer, proof.eligible, proof.is_quantized) == (7, 8, True)
    rows = {row["layer"]: row for row in proof.layers}
    assert "8" not in rows["head"]["layer"]
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


LAYERS = [
    nn.Linear(64, 96),
    nn.Linear(9, 7),
    nn.Conv2d(64, 64, 1),
    nn.Conv2d(48, 40, 3, padding=1),
    nn.Conv2d(3, 64, 7, stride=2, padding=3),
    nn.Conv2d(128, 96, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
    nn.Conv1d(16, 24, 5, stride=2, padding=2),
]
EPILOGUES = [
    Epilogue(),
    Epilogue(has_relu=True, code_scale=0.5),
    Epilogue(skip_scale=0.25, has_relu=True, code_scale=0.5),
    Epilogue(skip_scale=0.25, real_type=torch.float16),
]


@pytest.mark.gpu
@pytest.mark.usefixtures("_restore_gpu_settings")
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
@pytest.mark.parametrize("float_layer", LAYERS, ids=str)
@torch.no_grad()
def test_every_kernel_equals_the_reference_up_to_one_step(float_layer, epilogue):
    from kdeploy.kernels.int8_triton import TILES, TritonProduct

    weight = torch.randint(-127, 128, float_layer.weight.shape, dtype=torch.int8)
    scales = torch.rand(len(weight)) / weight[0].numel() / 100
    layer = IntegerLayer(
        *(weight, scales, torch.randn(len(weight))),
        window=window_of_layer(float_layer),
        epilogue=epilogue,
    )
    shape = {2: (5, weight.shape[1]), 3: (3, weight.shape[1], 40)}.get(weight.dim())
    shape = shape or (3, weight.shape[1], 23, 18)
    x = torch.randint(-128, 128, shape, dtype=torch.int8)
    skip = torch.randint(-128, 128, layer(x).shape, dtype=torch.int8)
    skip = skip if epilogue.skip_scale else None
    expected = layer(x, skip)
    layer.cuda()
    given = x.cuda(), None if skip is None else skip.cuda()
    for product in (IntMm(layer), *(TritonProduct(layer, tile) for tile in TILES)):
        layer.product = product
        found = layer(*given).cpu()
        difference = (found.double() - expected.double()).abs()
        if epilogue.code_scale:
            # The factors of a fused multiply-add are not rounded in between: ties may flip.
            assert float(difference.max()) <= 1, product
            assert float((difference > 0).double().mean()) < 1e-3, product
        else:
            assert float(difference.max()) <= 2e-3 * float(expected.abs().max()), product


@pytest.mark.gpu
@pytest.mark.usefixtures("_restore_gpu_settings")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_codes_in_one_pass_are_the_same_codes(dtype):
    from kdeploy.kernels.int8_triton import codes_in_one_pass

    x = torch.randn(3, 5, 7, 9).to(dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=layout)
        found = codes_in_one_pass(given.cuda(), 0.02)
        assert found.is_contiguous(memory_format=layout)
        assert torch.equal(found.cpu(), codes_of(given, 0.02))
