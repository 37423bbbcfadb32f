from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.onnx_graph.quantizers import Graph


@pytest.fixture
def model():
    """Return x -> Relu -> quantizer of step 0.5 -> Abs, as y."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in "xy"]
    stored = [
        numpy_helper.from_array(np.float32(0.5), "step"),
        numpy_helper.from_array(np.uint8(128), "zero"),
    ]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
        helper.make_node("Abs", ["d"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def answer(model, *x):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": np.array(x, np.float32)})[0].tolist()


def test_a_quantizer_is_found_with_what_its_codes_stand_for(model):
    [found] = Graph(model).quantizers()
    assert (found.tensor, found.scale, found.zero_point) == ("r", 0.5, 128)
    assert (found.lowest, found.highest) == (-64, 63.5)
    assert found.is_symmetric
    assert not found.is_unsigned
    assert Graph(model).only_reader("d").op_type == "Abs"
    assert Graph(model).only_reader("y") is None


def test_other_codes_are_computed_with(model):
    assert answer(model, 1.3, 200) == [1.5, 63.5]
    graph = Graph(model)
    [found] = graph.quantizers()
    graph.encode(found, 0.25, 0, np.dtype(np.uint8))
    graph.write()
    assert answer(model, 1.3, 200) == [1.25, 63.75]


def test_one_is_removed_and_another_put_elsewhere(model):
    graph = Graph(model)
    graph.remove_quantizer(graph.quantizers()[0])
    assert not graph.quantizers()
    graph.add_quantizer("x", 1.0, 0, np.dtype(np.int8))
    graph.write()
    assert [n.op_type for n in model.graph.node] == [
        *("QuantizeLinear", "DequantizeLinear", "Relu", "Abs")
    ]
    assert answer(model, 1.3, -3, 200) == [1, 0, 127]


def test_what_cannot_be_negative_is_told_from_the_operators_before(model):
    graph = Graph(model)
    assert graph.is_never_negative("d")
    assert not graph.is_never_negative("x")
    model.graph.node[0].op_type = "Neg"
    assert not Graph(model).is_never_negative("d")
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.uint8(0), "zero"))
    assert Graph(model).is_never_negative("d")  # by the codes


def test_a_constant_is_stored_once_and_another_of_its_name_beside(model):
    graph = Graph(model)
    assert graph.add_constant("step", np.array(0.5, np.float32)) == "step"
    assert graph.add_constant("step", np.array(2.0, np.float32)) == "step_"
    assert len(model.graph.initializer) == 3
