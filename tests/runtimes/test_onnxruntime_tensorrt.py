from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from kdeploy.errors import ModelError
from kdeploy.runtimes import onnxruntime_tensorrt
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.onnxruntime_tensorrt import CUDA, PROVIDER, OnnxruntimeTensorrt
from kdeploy.runtimes.run import named
from tests.tiny import fake_tensorrt


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Put a session that only listens in the place of the real; return what it was told."""
    fake_tensorrt.install(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    told = SimpleNamespace()

    def listen(path, options, provider, settings, *, others):
        told.path, told.provider, told.settings, told.others = path, provider, settings, others
        told.options = options()
        told.session = onnxruntime.InferenceSession(path, told.options)
        return told

    monkeypatch.setattr(onnxruntime_tensorrt, "OnnxGpuSession", listen)
    plain = onnxruntime.SessionOptions
    monkeypatch.setattr(onnxruntime_tensorrt, "gpu_options", lambda threads: plain())
    return told


def opened(path, **options):
    runtime = OnnxruntimeTensorrt(**options)
    runtime.open(path)
    return runtime


@pytest.fixture
def signed_file(weights_only_file):
    """Return a file whose quantized tensors TensorRT reads: int8, zero points of 0."""
    return weights_only_file


def test_int8_is_on_for_a_quantized_file_alone(asked, float_file, signed_file):
    opened(float_file)
    assert (asked.provider, asked.others) == (PROVIDER, [CUDA])
    assert asked.settings["trt_int8_enable"] is False
    opened(signed_file, fp16=True)
    assert asked.settings["trt_int8_enable"] is True
    assert asked.settings["trt_fp16_enable"] is True


def test_engines_are_kept_and_built_for_a_range_of_batches(asked, float_file, tmp_path):
    opened(float_file, max_batch=16)
    told = {k: v for k, v in asked.settings.items() if "profile" in k}
    assert told == {
        "trt_profile_min_shapes": "x:1x3x8x8",
        "trt_profile_opt_shapes": "x:8x3x8x8",
        "trt_profile_max_shapes": "x:16x3x8x8",
    }
    assert asked.settings["trt_engine_cache_path"].startswith(str(tmp_path))


def test_a_file_with_more_open_dimensions_has_no_range(asked, float_file, tmp_path):
    model = onnx.load(float_file)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "open.onnx")
    opened(tmp_path / "open.onnx")
    assert not [k for k in asked.settings if "profile" in k]


def test_quantized_pairs_are_left_to_tensorrt(asked, signed_file):
    opened(signed_file)
    assert asked.options.get_session_config_entry("session.disable_quant_qdq") == "1"


def test_it_proves_who_runs_each_node_and_claims_no_kernel(asked, signed_file):
    proof = opened(signed_file).proof_of_use()
    assert proof.is_quantized
    assert proof.integer_kernels is None
    assert set(proof.operators) == {"CPUExecutionProvider"}  # the session of this test
    assert sum(proof.operators.values()) == proof.elsewhere == len(proof.layers) > 5


def test_a_file_quantized_for_processors_is_refused(asked, int8_file):
    with pytest.raises(ModelError, match="quantized for processors"):
        opened(int8_file)


def test_what_is_no_onnx_file_is_left_to_onnx_runtime_to_refuse(asked, tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf):
        opened(tmp_path / "text.onnx")


def test_tensorrt_11_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(onnxruntime_tensorrt, "without_provider", lambda provider: None)
    fake_tensorrt.install(monkeypatch, "11.4.0.106")
    assert "pip install 'tensorrt<11'" in OnnxruntimeTensorrt.unavailable()
    fake_tensorrt.install(monkeypatch)
    assert OnnxruntimeTensorrt.unavailable() is None


def test_its_options_can_be_named():
    _, options = named("onnxruntime_tensorrt:fp16=true,sparse=true")
    assert options["fp16"] is options["sparse"] is True


@pytest.mark.gpu
def test_on_a_gpu_it_answers_as_the_processor_and_tells_the_time(float_file):
    if reason := OnnxruntimeTensorrt.unavailable():
        pytest.skip(reason)
    x = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    plain = onnxruntime.InferenceSession(str(float_file), providers=["CPUExecutionProvider"])
    opened = OnnxruntimeTensorrt()
    opened.open(float_file)
    for count in (4, 1):
        expected = plain.run(None, {"x": x[:count]})[0]
        np.testing.assert_allclose(first(opened.infer(x[:count])), expected, rtol=1e-2, atol=1e-2)
        assert opened.device_seconds() > 0
    assert opened.proof_of_use().provider == PROVIDER
    opened.close()
