"""Each tensor is what float16 holds of it, as numpy has it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from kdeploy.export.half_graph import in_float32, is_half, rounded


def test_every_tensor_is_rounded_as_numpy_rounds_it(tmp_path):
    nodes = [
        helper.make_node("Cast", ["input"], ["a"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["a", "a"], ["b"]),
        helper.make_node("Add", ["b", "a"], ["c"]),
        helper.make_node("Cast", ["c"], ["output"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [5]) for n in ("input", "output")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    program = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert is_half(program)
    twin = in_float32(program, ["a", "b", "c"], rounded)
    session = onnxruntime.InferenceSession(twin.SerializeToString())
    x = np.array([0.1, 3e-4, 255.7, 256.5, -1e-8], np.float32)
    half = x.astype(np.float16)
    with np.errstate(over="ignore"):
        expected = half * half + half
    found = session.run(["output", "b/largest"], {"input": x})
    assert found[0].tolist() == expected.astype(np.float32).tolist()
    assert found[1] == np.float32(half[3]) ** 2


def test_a_float32_file_is_passed_over(exported_float):
    assert not is_half(onnx.load(exported_float))
