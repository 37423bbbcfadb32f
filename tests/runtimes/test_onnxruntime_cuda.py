from __future__ import annotations

import onnxruntime
import pytest

from kdeploy.errors import ModelError, Unavailable
from kdeploy.runtimes.contract import DeviceTimed
from kdeploy.runtimes.onnxruntime_cuda import PROVIDER, OnnxruntimeCuda


def refusing(message):
    def refuse(*_):
        raise ModelError(message, hint="")

    return refuse


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


@pytest.mark.parametrize(
    ("message", "error"), [("no fallback allowed", Unavailable), ("broken", ModelError)]
)
def test_an_operator_without_a_cuda_kernel_is_no_fault_of_the_file(
    monkeypatch, float_file, message, error
):
    monkeypatch.setattr("kdeploy.runtimes.onnxruntime_cuda.OnnxGpuSession", refusing(message))
    with pytest.raises(error, match=message):
        OnnxruntimeCuda().open(float_file)
