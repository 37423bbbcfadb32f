from __future__ import annotations

import onnxruntime
import pytest

from kdeploy.errors import Unavailable
from kdeploy.runtimes import onnx_provider
from kdeploy.runtimes.onnx_session import OnnxSession


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(onnx_provider, "without_gpu", lambda: None)


def test_a_missing_gpu_is_the_first_reason(monkeypatch):
    monkeypatch.setattr(onnx_provider, "without_gpu", lambda: "no GPU")
    assert onnx_provider.without_provider("CPUExecutionProvider") == "no GPU"


def test_a_build_without_the_provider_names_the_one_to_install(gpu):
    reason = onnx_provider.without_provider("NoSuchExecutionProvider")
    assert "pip install 'onnxruntime-gpu" in reason
    assert onnx_provider.without_provider("CPUExecutionProvider") is None


def test_operators_may_not_fall_back_to_the_processor():
    key = "session.disable_cpu_ep_fallback"
    assert onnx_provider.gpu_options(1).get_session_config_entry(key) == "1"


def test_a_session_that_fell_back_is_refused(float_file, monkeypatch):
    """Where a provider cannot start, ONNX Runtime takes the processor and raises nothing."""
    real = onnxruntime.InferenceSession

    def fallen_back(path, options, providers):
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", fallen_back)
    providers = [("TensorrtExecutionProvider", {}), "CUDAExecutionProvider"]
    with pytest.raises(Unavailable, match="instead of TensorrtExecutionProvider"):
        OnnxSession(float_file, onnxruntime.SessionOptions, providers)
