from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.opsets import in_opset


def model(*nodes, opset=18, **constants):
    shapes = {"x": [2, 4], "y": ["rows", "columns"]}
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    stored = [numpy_helper.from_array(np.asarray(v, np.int64), k) for k, v in constants.items()]
    graph = helper.make_graph(list(nodes), "g", ends[:1], ends[1:], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(made, {"kdeploy.profile": "float"})
    return made


MEAN = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1, noop_with_empty_axes=0)
SPLIT = helper.make_node("Split", ["x"], ["y", "z"], axis=1, num_outputs=2)


@pytest.mark.parametrize(
    "given", [model(MEAN, axes=[1]), model(SPLIT), model(helper.make_node("Relu", ["x"], ["y"]))]
)
@pytest.mark.parametrize("opset", [17, 19, 21])
def test_the_same_is_computed_in_another_opset(given, opset):
    before = given.SerializeToString()
    converted = in_opset(onnx.load_from_string(before), opset)
    assert [o.version for o in converted.opset_import] == [opset]
    assert [p.value for p in converted.metadata_props] == ["float"]
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    answers = [
        onnxruntime.InferenceSession(m).run(["y"], {"x": x})[0]
        for m in (before, converted.SerializeToString())
    ]
    np.testing.assert_array_equal(*answers)


def test_from_the_newest_opset_down_to_the_oldest():
    newest = model(helper.make_node("Relu", ["x"], ["y"]), opset=21)
    assert [o.version for o in in_opset(newest, 17).opset_import] == [17]


@pytest.mark.parametrize(
    ("node", "named"),
    [
        (helper.make_node("Mish", ["x"], ["y"]), "Mish"),
        (helper.make_node("ReduceMean", ["x"], ["y"], noop_with_empty_axes=1), "noop_with"),
    ],
)
def test_what_an_older_opset_cannot_say_is_named(node, named):
    with pytest.raises(ModelError, match=rf"cannot be written in opset 17: .*{named}") as caught:
        in_opset(model(node), 17)
    assert "opset 18" in caught.value.hint


def test_the_same_opset_is_the_same_graph():
    given = model(MEAN, axes=[1])
    assert in_opset(given, 18).graph == given.graph
