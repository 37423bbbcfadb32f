from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.onnx_graph.passes import drop_unused, rewritten
from kdeploy.onnx_graph.rewrites import (
    describe,
    drop_traces,
    pool_globally,
    store_integer_biases,
    transpose_weights,
)


def model_of(nodes, constants, shape, outputs):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def answer(model, x):
    options = onnxruntime.SessionOptions()
    # As written: optimised, a product with a quantized weight alone is computed less exactly.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def mean_over(axes, keepdims=1):
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keepdims)
    outputs = ["n", None, None, None][: 4 if keepdims else 4 - len(axes)]
    return model_of([node], {"axes": np.int64(axes)}, ["n", 3, 4, 4], outputs)


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_a_mean_over_all_positions_becomes_a_global_pool(axes):
    model, x = mean_over(axes), np.random.default_rng(0).random((2, 3, 4, 4), np.float32)
    before = answer(model, x)
    model = rewritten(model, pool_globally)
    assert [n.op_type for n in model.graph.node] == ["GlobalAveragePool"]
    np.testing.assert_allclose(answer(model, x), before, rtol=1e-6)
    np.testing.assert_allclose(before, x.mean((2, 3), keepdims=True), rtol=1e-6)


@pytest.mark.parametrize(("axes", "keepdims"), [([1, 2], 1), ([2], 1), ([2, 3], 0)])
def test_any_other_mean_stays(axes, keepdims):
    model = mean_over(axes, keepdims)
    model = rewritten(model, pool_globally)
    assert [n.op_type for n in model.graph.node] == ["ReduceMean"]


@pytest.mark.parametrize("is_per_channel", [True, False])
def test_a_transposed_weight_is_stored_transposed(is_per_channel):
    codes = np.random.default_rng(0).integers(-127, 128, (3, 8)).astype(np.int8)
    scale = np.array([0.1, 0.2, 0.3] if is_per_channel else 0.1, np.float32)
    constants = {"w": codes, "s": scale, "z": np.zeros(scale.shape, np.int8)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=0),
        helper.make_node("Transpose", ["d"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    model = model_of(nodes, constants, ["n", 8], ["n", 3])
    x = np.random.default_rng(1).random((2, 8), np.float32)
    before = answer(model, x)
    model = rewritten(model, transpose_weights, drop_unused)
    assert [n.op_type for n in model.graph.node] == ["DequantizeLinear", "MatMul"]
    assert {t.name for t in model.graph.initializer} == {"w_transposed", "s", "z"}
    np.testing.assert_allclose(answer(model, x), before, rtol=1e-6)
    np.testing.assert_allclose(before, x @ (codes * scale.reshape(-1, 1)).T, rtol=1e-5)


def quantized_gemm(bias, *, output_is_quantized=False):
    rng = np.random.default_rng(0)
    constants = {
        "s": np.float32(0.02),
        "z": np.uint8(128),
        "w": rng.integers(-127, 128, (3, 8)).astype(np.int8),
        "ws": rng.uniform(0.001, 0.01, 3).astype(np.float32),
        "wz": np.zeros(3, np.int8),
        "b": bias,
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Gemm", ["xd", "wd", "b"], ["g"], transB=1),
    ]
    ends = [helper.make_node("Identity", ["g"], ["y"])]
    if output_is_quantized:
        ends = [
            helper.make_node("QuantizeLinear", ["g", "s", "z"], ["gq"]),
            helper.make_node("DequantizeLinear", ["gq", "s", "z"], ["y"]),
        ]
    return model_of([*nodes, *ends], constants, ["n", 8], ["n", 3])


def test_the_bias_of_a_gemm_with_float_output_becomes_int32():
    bias = np.array([0.5, -2.0, 0.0], np.float32)
    model, x = quantized_gemm(bias), np.random.default_rng(1).normal(size=(4, 8)).astype("f")
    before = answer(model, x)
    model = rewritten(model, store_integer_biases, drop_unused)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    step = np.float64(0.02) * stored["ws"]
    np.testing.assert_array_equal(stored["b_codes"], np.rint(bias / step))
    assert stored["b_codes"].dtype == np.int32
    assert "b" not in stored
    np.testing.assert_allclose(answer(model, x), before, atol=step.max())


def test_a_bias_that_does_not_fit_stays_float():
    model = quantized_gemm(np.array([1e6, 0, 0], np.float32))
    model = rewritten(model, store_integer_biases)
    assert len(model.graph.node) == 5


def test_a_gemm_whose_output_is_quantized_is_left_to_the_runtime():
    model = quantized_gemm(np.ones(3, np.float32), output_is_quantized=True)
    model = rewritten(model, store_integer_biases)
    assert not any("codes" in t.name for t in model.graph.initializer)


def test_traces_go_and_descriptions_stay():
    model = mean_over([2, 3])
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "stack_trace", "/home/me/secret.py"
    model.graph.node[0].doc_string = "line 7"
    model = rewritten(model, drop_traces)
    describe(model, {"b": "2", "a": "1"})
    assert b"secret" not in model.SerializeToString()
    assert b"line 7" not in model.SerializeToString()
    assert [(p.key, p.value) for p in model.metadata_props] == [("a", "1"), ("b", "2")]
