from __future__ import annotations

import numpy as np
import pytest

from kdeploy.errors import ModelError
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.onnxruntime_cpu import OnnxruntimeCpu
from kdeploy.runtimes.openvino import Openvino

pytest.importorskip("openvino")


def _opened(path):
    runtime = Openvino(threads=1)
    runtime.open(path)
    return runtime


def test_computes_what_onnx_runtime_computes(float_file):
    batch = np.random.default_rng(3).normal(size=(2, 3, 8, 8)).astype(np.float32)
    other = OnnxruntimeCpu(threads=1)
    other.open(float_file)
    np.testing.assert_allclose(
        first(_opened(float_file).infer(batch)), first(other.infer(batch)), rtol=1e-4, atol=1e-5
    )


def test_a_float_file_runs_in_float32_even_where_bfloat16_exists(float_file):
    proof = _opened(float_file).proof_of_use()
    assert not proof.is_quantized
    assert (proof.integer, proof.eligible) == (0, 3)
    assert proof.operators["Convolution:f32"] == 2


def test_convolutions_of_an_int8_file_are_integer(int8_file):
    proof = _opened(int8_file).proof_of_use()
    assert proof.is_quantized
    assert proof.integer >= 2
    assert proof.eligible == 3


def test_says_the_precision_and_the_kernel_of_each_layer(int8_file):
    layers = _opened(int8_file).proof_of_use().layers
    convolutions = [layer for layer in layers if layer["operator"] == "Convolution"]
    assert [layer["precision"] for layer in convolutions] == ["u8", "u8"]
    assert all(layer["name"] and layer["kernel"].endswith("I8") for layer in convolutions)
    assert not [layer for layer in layers if layer["operator"] in ("Const", "Input", "Output")]


def test_an_xml_file_without_its_weights_is_one_error(float_file, tmp_path):
    import openvino

    path = tmp_path / "m.xml"
    openvino.save_model(openvino.Core().read_model(float_file), path, compress_to_fp16=False)
    path.with_suffix(".bin").unlink()
    with pytest.raises(ModelError, match=r"cannot open .*m\.xml") as caught:
        _opened(path)
    assert ".bin" in caught.value.hint


@pytest.mark.parametrize("broken", ["truncated", "text", "empty", "unknown"], indirect=True)
def test_a_broken_file_is_one_error_with_a_hint(broken):
    with pytest.raises(ModelError, match=broken.name) as caught:
        Openvino(threads=1).open(broken)
    assert caught.value.hint
    assert ("Frobnicate" in caught.value.message) == (broken.stem == "unknown")


def test_a_wrong_shape_names_both_shapes(float_file):
    with pytest.raises(ModelError, match=r"\[1, 4, 8, 8\].*\[\?,3,8,8\]"):
        first(_opened(float_file).infer(np.zeros((1, 4, 8, 8), np.float32)))


INPUT = """<net><layers><layer id="0" type="Const"><data shape="9"/></layer>
<layer id="1" name="x" type="Parameter"><data shape="{}" element_type="{}"/></layer></layers>
</net>"""


def test_a_file_says_what_it_takes_without_being_opened(tmp_path):
    (tmp_path / "m.xml").write_text(INPUT.format("?,3,1..64", "i64"))
    assert [str(i) for i in Openvino.inputs_of(tmp_path / "m.xml")] == ["x=?,3,1..64:int64"]


@pytest.mark.parametrize("content", [b"", b"<net><layer type='Parameter'/></net>"])
def test_a_broken_file_is_one_error(tmp_path, content):
    (tmp_path / "m.xml").write_bytes(content)
    with pytest.raises(ModelError, match="does not say what it takes"):
        Openvino.inputs_of(tmp_path / "m.xml")
