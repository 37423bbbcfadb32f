from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.compress.compressors.two_four import two_four
from kdeploy.compress.contract import CompressContext
from kdeploy.errors import Unavailable
from kdeploy.kernels.fastest import device_seconds
from kdeploy.kernels.sparse_layers import CuSparseLtProduct, SparseLayer
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.torch_sparse24 import TorchSparse24

BATCH = np.random.default_rng(0).normal(size=(5, 1, 12, 12)).astype(np.float32)
WIDTH = 32


@pytest.fixture
def sparse_model(tiny_model, tiny_data):
    """Return a network of which all layers but the stem, the depthwise one and the head fit."""
    return two_four(tiny_model(width=WIDTH), CompressContext(data=tiny_data))


def opened(path, **options):
    runtime = TorchSparse24(**options)
    runtime.open(path)
    return runtime


def check(runtime, model):
    with torch.no_grad():
        expected = model(torch.from_numpy(BATCH)).numpy()
    np.testing.assert_allclose(first(runtime.infer(BATCH)), expected, atol=0.05 * np.ptp(expected))
    proof = runtime.proof_of_use()
    assert (proof.eligible, proof.sparse_eligible) == (8, 5)
    rows = {row["name"]: row for row in proof.layers}
    assert "grouped" in rows["depthwise"]["why"]
    assert "no multiple" in rows["head"]["why"]
    assert all(t in rows["blocks.0.conv1"]["why"] for t in ("dense", "sparse"))
    return proof


@pytest.mark.parametrize("precision", ["bf16"])
def test_dry_each_layer_of_the_pattern_runs_sparse(dry, store_model, sparse_model, precision):
    path = store_model(sparse_model, width=WIDTH)
    runtime = opened(path, precision=precision, cuda_graph=False)
    assert check(runtime, sparse_model).sparse == 5
    assert runtime.device_seconds() > 0


def test_a_dense_artefact_is_refused(dry, store_model, tiny_model):
    with pytest.raises(Unavailable, match="no layer") as caught:
        opened(store_model(tiny_model(width=WIDTH), width=WIDTH))
    assert "two_four" in caught.value.hint


@pytest.mark.gpu
@pytest.mark.usefixtures("_restore_gpu_settings")
@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_answers_as_the_model(store_model, sparse_model, precision, cuda_graph):
    path = store_model(sparse_model, width=WIDTH)
    runtime = opened(path, precision=precision, cuda_graph=cuda_graph)
    proof = check(runtime, sparse_model)
    assert not any("failed" in row["why"] for row in proof.layers), proof.layers


@pytest.mark.gpu
@pytest.mark.usefixtures("_restore_gpu_settings")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "layer",
    [nn.Linear(64, 96), nn.Conv2d(64, 32, 1), nn.Conv2d(32, 64, 3, stride=2, padding=1)],
    ids=str,
)
@torch.no_grad()
def test_a_sparse_kernel_computes_what_the_dense_layer_does(layer, dtype):
    from kdeploy.kernels.windows import rows_of

    kept = torch.arange(layer.weight.shape[1]) % 4 < 2
    layer.weight.mul_(kept.view(-1, *(1 for _ in layer.weight.shape[2:])))
    layer = layer.to("cuda", dtype)
    x = torch.randn(3, layer.weight.shape[1], *(() if layer.weight.dim() == 2 else (13, 9)))
    x = x.to("cuda", dtype)
    sparse = SparseLayer(layer, CuSparseLtProduct(rows_of(layer.weight)), device_seconds)
    torch.testing.assert_close(sparse._sparse(x), layer(x), rtol=2e-2, atol=2e-2)
    sparse(x)
    assert set(sparse.fastest.times) == {"dense", "sparse"}
    assert all(isinstance(t, float) for t in sparse.fastest.times.values()), sparse.fastest.why()
