from __future__ import annotations

import copy
import gc

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.checks import copy_file
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.torch_module.finite import first_layer


def written(path, batch="batch"):
    """Write y = 2 x for items of three numbers."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (batch, 3)) for n in "xy"]
    two = numpy_helper.from_array(np.full(3, 2, np.float32), "two")
    nodes = [helper.make_node("Mul", ["x", "two"], ["y"])]
    graph = helper.make_graph(nodes, "double", values[:1], values[1:], [two])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


@pytest.mark.parametrize("batch", ["batch", 1, 4])
def test_a_batch_of_any_size_is_answered(tmp_path, batch):
    written(tmp_path / "m.onnx", batch)
    x = torch.rand(6, 3)
    assert torch.equal(OnnxModel(tmp_path / "m.onnx")(x), 2 * x)


def test_items_of_another_shape_are_refused(tmp_path):
    written(tmp_path / "m.onnx")
    with pytest.raises(
        ModelError, match=r"cannot run an input of shape \[2, 5\]; it takes \['batch', 3\]"
    ):
        OnnxModel(tmp_path / "m.onnx")(torch.rand(2, 5))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules
def test_what_is_compiled_goes_around_it(tmp_path):
    written(tmp_path / "m.onnx")
    around = torch.nn.Sequential(OnnxModel(tmp_path / "m.onnx"), torch.nn.ReLU())
    x = torch.randn(6, 3)
    with torch.no_grad():
        assert torch.equal(torch.compile(around, backend="eager")(x), (2 * x).relu())


def test_a_file_of_its_own_lives_as_long_as_the_model_or_a_copy(tmp_path):
    model = OnnxModel.written_by(written)
    twin, path = copy.deepcopy(model), model.path
    assert torch.equal(twin(torch.ones(1, 3)), model(torch.ones(1, 3)))
    assert twin.state_dict().keys() == model.state_dict().keys() == {"sha256"}
    del model
    gc.collect()
    assert path.is_file()
    copy_file(path, tmp_path / "kept.onnx")
    del twin
    gc.collect()
    assert not path.parent.exists()
    assert OnnxModel(tmp_path / "kept.onnx") is not None


def test_tensors_in_files_beside_are_copied_too(tmp_path):
    written(tmp_path / "m.onnx")
    large = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
    onnx.save(onnx.load(tmp_path / "m.onnx"), tmp_path / "m.onnx", **large)
    (tmp_path / "other").mkdir()
    copy_file(tmp_path / "m.onnx", tmp_path / "other" / "model.onnx")
    assert (tmp_path / "other" / "model.onnx.data").is_file()
    assert OnnxModel(tmp_path / "other" / "model.onnx")(torch.ones(1, 3)).tolist() == [[2, 2, 2]]


def test_names_the_first_operator_that_answers_no_number(tmp_path):
    nodes = [
        helper.make_node("Relu", ["input"], ["a"], name="front"),
        helper.make_node("Div", ["a", "a"], ["b"], name="ratio"),
        helper.make_node("Neg", ["b"], ["output"], name="end"),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3])
        for name in ("input", "output")
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    program = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(program, tmp_path / "m.onnx")
    model = OnnxModel(tmp_path / "m.onnx")
    assert model.first_operator_without_numbers(torch.ones(2, 3)) is None
    assert first_layer(model, torch.zeros(2, 3)) == "Div ratio"
