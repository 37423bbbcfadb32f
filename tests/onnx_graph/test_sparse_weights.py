# ruff: noqa: F811 - fixtures of another room
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.onnx_graph.sparse_weights import is_two_four, num_two_four_of_file
from kdeploy.runtimes.openvino import Openvino
from kdeploy.runtimes.run import open_runtime
from tests.runtimes.conftest import float_file  # noqa: F401


def two_four(shape, axis):
    """Return random numbers with every other one along an axis set to zero."""
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32) + 10
    kept = np.arange(shape[axis]) % 2 == 0
    return weight * kept.reshape([-1 if i == axis else 1 for i in range(len(shape))])


@pytest.fixture
def sparse_file(tmp_path):
    """Six operators with weights: four of them 2:4, one grouped, one dense."""
    rng = np.random.default_rng(1)
    codes = np.rint(two_four((8, 8, 1, 1), 1)).astype(np.int8)
    weights = {
        "conv": two_four((8, 4, 3, 3), 1),
        "coded": codes,
        "scale": np.float32(0.1),
        "grouped": two_four((8, 4, 1, 1), 1),
        "gemm": two_four((12, 8), 1),
        "product": two_four((12, 8), 0),
        "dense": rng.normal(size=(8, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("DequantizeLinear", ["coded", "scale"], ["real"]),
        helper.make_node("Conv", ["a", "real"], ["b"]),
        helper.make_node("Conv", ["b", "grouped"], ["c"], group=2),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "gemm"], ["f"], transB=1),
        helper.make_node("MatMul", ["f", "product"], ["g"]),
        helper.make_node("MatMul", ["g", "dense"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sparse",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()],
    )
    path = tmp_path / "sparse.onnx"
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def test_groups_of_four_lie_along_the_inputs_at_one_position():
    assert is_two_four(two_four((8, 4, 3, 3), 1))
    assert not is_two_four(two_four((8, 4, 3, 3), 0))
    assert not is_two_four(two_four((8, 6), 1)), "six inputs are no fours"
    three = np.ones((4, 4), np.float32)
    three[:, 0] = 0
    assert not is_two_four(three)


def test_operators_with_the_pattern_are_counted_whichever_way_their_weight_lies(sparse_file):
    assert num_two_four_of_file(sparse_file) == 4


def test_weights_in_a_file_of_their_own_are_read(sparse_file, tmp_path):
    path = tmp_path / "external" / "model.onnx"
    path.parent.mkdir()
    model = onnx.load(sparse_file)
    onnx.save(model, path, save_as_external_data=True, location="data", size_threshold=0)
    assert num_two_four_of_file(path) == 4


@pytest.mark.parametrize("name", ["onnxruntime_cpu", "openvino"])
def test_a_runtime_without_sparse_kernels_proves_that_none_ran(name, sparse_file):
    if name == "openvino" and Openvino.unavailable():
        pytest.skip("openvino is not installed")
    proof = open_runtime(name, sparse_file, threads=1).proof_of_use()
    assert (proof.sparse_eligible, proof.sparse) == (4, 0)


def test_a_dense_file_has_none(float_file):
    assert num_two_four_of_file(float_file) == 0
