from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from kdeploy.runtimes.contract import DeviceTimed, first
from kdeploy.runtimes.onnxruntime_cuda import PROVIDER, OnnxruntimeCuda


def test_without_a_driver_it_says_so_and_touches_nothing(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert "NVIDIA driver" in (OnnxruntimeCuda.unavailable() or "")


def test_a_build_without_cuda_names_the_one_to_install(monkeypatch):
    if PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the CUDA provider")
    monkeypatch.setattr("kdeploy.runtimes.onnx_provider.without_gpu", lambda: None)
    assert "pip install 'onnxruntime-gpu" in (OnnxruntimeCuda.unavailable() or "")


def test_it_has_a_clock_on_the_gpu():
    assert isinstance(OnnxruntimeCuda(), DeviceTimed)


@pytest.mark.gpu
def test_on_a_gpu_it_answers_as_the_processor_and_tells_the_time(float_file):
    if reason := OnnxruntimeCuda.unavailable():
        pytest.skip(reason)
    x = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    plain = onnxruntime.InferenceSession(str(float_file), providers=["CPUExecutionProvider"])
    opened = OnnxruntimeCuda()
    opened.open(float_file)
    for count in (4, 1):
        expected = plain.run(None, {"x": x[:count]})[0]
        np.testing.assert_allclose(first(opened.infer(x[:count])), expected, rtol=1e-2, atol=1e-2)
        assert opened.device_seconds() > 0
    assert opened.proof_of_use().provider == PROVIDER
    opened.close()
