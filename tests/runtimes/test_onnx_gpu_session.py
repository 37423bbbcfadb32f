"""The session on a stand-in for the GPU: memory of the processor, and the processor's provider."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from kdeploy.errors import ModelError, Unavailable
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.onnx_gpu_session import OnnxGpuSession
from tests.tiny import fake_cuda

X = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def opened(float_file, monkeypatch):
    """Return the session, and the list of devices that tensors were bound to."""
    real = onnxruntime.InferenceSession
    bound = []

    class OnTheProcessor(real):
        def __init__(self, path, options, providers):
            ((name, settings),) = providers
            assert settings == {"user_compute_stream": str(fake_cuda.HANDLE)}
            super().__init__(path, options, providers=[name])

        def io_binding(self):
            binding = super().io_binding()
            bind_input, bind_output = binding.bind_input, binding.bind_output

            def input_of(*, device_type, **rest):
                bound.append(device_type)
                bind_input(device_type="cpu", **rest)

            def output_of(name, device_type):
                bound.append(device_type)
                bind_output(name, "cpu")

            binding.bind_input, binding.bind_output = input_of, output_of
            return binding

    monkeypatch.setattr(onnxruntime, "InferenceSession", OnTheProcessor)
    stream = fake_cuda.FakeStream()
    monkeypatch.setattr("kdeploy.runtimes.onnx_gpu_session.CudaStream", lambda: stream)
    options = onnxruntime.SessionOptions
    return OnnxGpuSession(float_file, options, "CPUExecutionProvider", {}), bound


def test_input_and_output_are_bound_to_the_gpu_once_a_shape(opened, float_file):
    session, bound = opened
    plain = onnxruntime.InferenceSession.__base__(float_file, providers=["CPUExecutionProvider"])
    for x in (X, X + 1, X[:2]):
        np.testing.assert_allclose(first(session.infer(x)), plain.run(None, {"x": x})[0], rtol=1e-5)
    assert bound == ["cuda"] * 4
    assert session.device_seconds() == fake_cuda.SECONDS


def test_a_wrong_shape_is_one_message(opened):
    session, _ = opened
    with pytest.raises(ModelError, match=r"shape \[3, 3, 8\]; it takes \['batch', 3, 8, 8\]"):
        first(session.infer(X[..., 0]))


@pytest.mark.parametrize(
    ("message", "error"), [("no fallback allowed", Unavailable), ("broken", ModelError)]
)
def test_an_operator_without_a_kernel_is_no_fault_of_the_file(
    monkeypatch, float_file, message, error
):
    def refuse(*_):
        raise ModelError(message)

    monkeypatch.setattr("kdeploy.runtimes.onnx_gpu_session.OnnxSession", refuse)
    monkeypatch.setattr("kdeploy.runtimes.onnx_gpu_session.CudaStream", fake_cuda.FakeStream)
    with pytest.raises(error, match=message):
        OnnxGpuSession(float_file, onnxruntime.SessionOptions, "CUDAExecutionProvider", {})
