"""What an ONNX file says about itself."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper, numpy_helper

from kdeploy.errors import FileMissing, ModelError
from kdeploy.package.bundles.onnx import Onnx

facts_of = Onnx.facts_of


def test_names_shapes_and_types_are_the_files(tiny):
    facts = facts_of(tiny.path)
    assert facts.opset == 18
    assert (facts.inputs[0].name, facts.inputs[0].shape) == ("image", ("batch", 1, 8, 8))
    assert (facts.outputs[0].name, facts.outputs[0].shape) == ("logits", ("batch", 3))
    assert facts.inputs[0].type == facts.outputs[0].type == "float32"
    assert not facts.is_quantized


def test_weights_that_are_listed_as_inputs_are_none(onnx_model, tmp_path):
    model = onnx_model()
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 1, 3, 3]))
    onnx.save(model, tmp_path / "old.onnx")
    assert [p.name for p in facts_of(tmp_path / "old.onnx").inputs] == ["image"]


def test_a_dynamic_axis_beside_the_batch_is_refused(onnx_model, tmp_path):
    onnx.save(onnx_model(shape=(1, "height", 8)), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="axis 2 of `image`"):
        facts_of(tmp_path / "m.onnx")


def test_data_beside_the_file_is_found_missing_inside_nodes_too(onnx_model, tmp_path):
    model = onnx_model()
    tensor = numpy_helper.from_array(model.graph.initializer[0].raw_data and _numbers(), "hidden")
    onnx.external_data_helper.set_external_data(tensor, "other.bin")
    tensor.ClearField("raw_data")
    model.graph.node.append(helper.make_node("Constant", [], ["k"], value=tensor))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FileMissing, match="hidden"):
        facts_of(tmp_path / "m.onnx")


def _numbers():
    import numpy as np

    return np.zeros(4, np.float32)
