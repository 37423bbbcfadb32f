from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from kdeploy.errors import ModelError
from kdeploy.runtimes.contract import DeviceTimed, first
from kdeploy.runtimes.torch_cuda import TorchCuda
from kdeploy.runtimes.torch_int8 import TorchInt8
from kdeploy.runtimes.torch_sparse24 import TorchSparse24

BATCH = np.random.default_rng(0).normal(size=(5, 1, 12, 12)).astype(np.float32)


def opened(path, **options):
    runtime = TorchCuda(**options)
    runtime.open(path)
    return runtime


def expected_of(model, batch=BATCH):
    with torch.no_grad():
        return model(torch.from_numpy(batch)).numpy()


@pytest.mark.parametrize("kind", [TorchCuda, TorchInt8, TorchSparse24])
def test_without_a_gpu_each_says_why(kind, monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "sees no GPU" in (kind.unavailable() or "")


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dry_it_answers_as_the_model_in_the_precision_asked_for(
    dry, store_model, tiny_model, precision, channels_last
):
    runtime = opened(store_model(tiny_model()), precision=precision, channels_last=channels_last)
    tolerance = 1e-5 if precision == "fp32" else 0.05
    expected = expected_of(tiny_model())
    np.testing.assert_allclose(
        first(runtime.infer(BATCH)), expected, atol=tolerance * np.ptp(expected)
    )
    assert isinstance(runtime, DeviceTimed)
    assert runtime.device_seconds() > 0
    proof = runtime.proof_of_use()
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    assert proof.eligible == len(proof.layers) == 8
    assert {row["kernel"].split()[1] for row in proof.layers} == {dtype}
    assert proof.settings["channels_last"] is channels_last


def test_dry_tf32_leaves_torch_s_exporter_as_it_is(dry, store_model, tiny_model):
    opened(store_model(tiny_model()), precision="tf32").proof_of_use()
    # What torch 2.13 refuses after its newer interface was used.
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(1),))
    assert [n.op for n in program.graph.nodes] == ["placeholder", "call_function", "output"]


def test_dry_a_wrong_shape_is_named(dry, store_model, tiny_model):
    with pytest.raises(ModelError, match=r"\[1, 5, 12, 12\]"):
        first(opened(store_model(tiny_model())).infer(np.zeros((1, 5, 12, 12), np.float32)))


@pytest.mark.gpu
@pytest.mark.usefixtures("_restore_gpu_settings")
@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("fp32", 1e-4), ("tf32", 5e-3), ("fp16", 5e-3), ("bf16", 5e-2)],
)
def test_answers_as_the_model_on_the_processor(
    store_model, tiny_model, precision, tolerance, cuda_graph
):
    runtime = opened(store_model(tiny_model()), precision=precision, cuda_graph=cuda_graph)
    for batch in (BATCH, BATCH[:2], BATCH):  # another shape is captured anew
        expected = expected_of(tiny_model(), batch)
        found = first(runtime.infer(batch))
        np.testing.assert_allclose(found, expected, atol=tolerance * np.ptp(expected))
        np.testing.assert_array_equal(first(runtime.infer(batch)), found)
        assert 0 < runtime.device_seconds() < 1
    other = first(runtime.infer(-BATCH))
    assert np.abs(other - found).max() > 1e-3, "the graph reads the new batch"
    rows = runtime.proof_of_use().layers
    assert all(row["kernel"].endswith("cuda:0") for row in rows)


@pytest.mark.gpu
@pytest.mark.usefixtures("_restore_gpu_settings")
def test_a_model_that_reads_a_value_on_the_host_cannot_be_captured():
    # In a process of its own: a capture that failed may leave the GPU's allocator in its pool.
    code = (
        "import numpy as np; from kdeploy.kernels.cuda_calls import CudaCalls\n"
        "calls = CudaCalls(lambda x: x * float(x.sum()), name='m', cuda_graph=True)\n"
        "try: calls(np.ones((2, 3), np.float32))\n"
        "except Exception as error: print(type(error).__name__, error.hint)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.startswith("Unavailable `cuda_graph=false`"), answer.stderr
