from __future__ import annotations

import onnxruntime
import pytest

from kdeploy.runtimes.contract import DeviceTimed
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
