from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.onnx_graph.graph import add_constant, only_reader
from kdeploy.onnx_graph.passes import graph_pass, rewritten, sort
from kdeploy.onnx_graph.quantizers import (
    add_quantizer,
    is_never_negative,
    quantizers,
    remove_quantizer,
    write_codes,
)


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


def graph_of(program):
    return ir.from_proto(program).graph


def value_of(program, name):
    made = {value.name: value for node in graph_of(program) for value in node.outputs}
    return made.get(name) or graph_of(program).inputs[0]


def test_a_quantizer_is_found_with_what_its_codes_stand_for(model):
    [found] = quantizers(graph_of(model))
    assert (found.tensor, found.scale, found.zero_point) == ("r", 0.5, 128)
    assert (found.lowest, found.highest) == (-64, 63.5)
    assert found.is_symmetric
    assert not found.is_unsigned
    assert only_reader(value_of(model, "d")).op_type == "Abs"
    assert only_reader(value_of(model, "y")) is None


def test_other_codes_are_computed_with(model):
    @graph_pass()
    def finer(model):
        [found] = quantizers(model.graph)
        write_codes(model.graph, found, 0.25, 0, np.dtype(np.uint8))

    assert answer(model, 1.3, 200) == [1.5, 63.5]
    assert answer(rewritten(model, finer), 1.3, 200) == [1.25, 63.75]


def test_one_is_removed_and_another_put_elsewhere(model):
    @graph_pass()
    def elsewhere(model):
        remove_quantizer(model.graph, quantizers(model.graph)[0])
        assert not quantizers(model.graph)
        add_quantizer(model.graph, model.graph.inputs[0], 1.0, 0, np.dtype(np.int8))

    written = rewritten(model, elsewhere, sort)
    assert [n.op_type for n in written.graph.node] == [
        *("QuantizeLinear", "DequantizeLinear", "Relu", "Abs")
    ]
    assert answer(written, 1.3, -3, 200) == [1, 0, 127]


def test_what_cannot_be_negative_is_told_from_the_operators_before(model):
    assert is_never_negative(value_of(model, "d"))
    assert not is_never_negative(value_of(model, "x"))
    model.graph.node[0].op_type = "Neg"
    assert not is_never_negative(value_of(model, "d"))
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.uint8(0), "zero"))
    assert is_never_negative(value_of(model, "d"))  # by the codes


def test_a_constant_is_stored_once_and_another_of_its_name_beside(model):
    graph = graph_of(model)
    assert add_constant(graph, "step", np.array(0.5, np.float32)).name == "step"
    assert add_constant(graph, "step", np.array(2.0, np.float32)).name == "step_"
    assert len(graph.initializers) == 3
