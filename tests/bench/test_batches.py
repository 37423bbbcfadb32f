"""Batches of several inputs, and a state that goes from call to call."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdeploy.bench.batches import Batches, Stream
from kdeploy.bench.inputs import write_pool
from kdeploy.bench.model_under_test import ModelUnderTest
from kdeploy.errors import ModelError
from kdeploy.runtimes.run import open_runtime

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@pytest.fixture
def adder(tmp_path):
    """Return a file that adds what it is given, times a rate, to a state."""
    value, node = helper.make_tensor_value_info, helper.make_node
    graph = helper.make_graph(
        [
            node("Cast", ["sr"], ["rate"], to=FLOAT),
            node("Mul", ["x", "rate"], ["scaled"]),
            node("Add", ["state", "scaled"], ["stateN"]),
            node("Identity", ["stateN"], ["y"]),
        ],
        "adder",
        [
            value("x", FLOAT, ["batch", 3]),
            value("state", FLOAT, ["batch", 3]),
            value("sr", INT64, []),
        ],
        [value("y", FLOAT, ["batch", 3]), value("stateN", FLOAT, ["batch", 3])],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.save(model, tmp_path / "adder.onnx")
    return tmp_path / "adder.onnx"


def pool_of(path, file, *, batch_size=2):
    model = ModelUnderTest(artifact="a", label="a", path=path, format="onnx")
    return write_pool(model, None, batch_size=batch_size, file=file)


def test_a_pool_has_an_array_for_each_input_that_is_given(adder, tmp_path):
    pool = pool_of(adder, tmp_path / "pool")
    assert [(told["name"], told["rows"]) for told in pool.inputs] == [("x", True), ("sr", False)]
    assert [(told["input"], told["output"]) for told in pool.state] == [("state", "stateN")]
    batch, *_ = Batches(tmp_path / "pool", pool.inputs).cut(2)
    assert batch["x"].shape == (2, 3)
    assert batch["sr"] == 16_000
    assert Batches(tmp_path / "pool", pool.inputs).repeated(500)["x"].shape == (500, 3)


def test_a_state_goes_from_call_to_call_and_begins_anew_at_another_size(adder, tmp_path):
    pool = pool_of(adder, tmp_path / "pool")
    runtime = open_runtime("onnxruntime_cpu", adder, threads=1)
    stream = Stream(runtime.infer, pool.state)
    step = {"x": np.ones((2, 3), np.float32), "sr": np.array(2)}
    assert [stream(step)["y"][0, 0] for _ in range(3)] == [2, 4, 6]
    assert stream({**step, "x": step["x"][:1]})["y"].tolist() == [[2, 2, 2]]


def test_one_array_is_cut_into_bare_batches(tmp_path):
    np.save(tmp_path / "pool.npy", np.arange(6))
    assert [b.tolist() for b in Batches(tmp_path / "pool.npy").cut(2)] == [[0, 1], [2, 3], [4, 5]]


def test_an_open_size_asks_for_its_name(adder, tmp_path):
    model = onnx.load(adder)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "free"
    onnx.save(model, adder)
    with pytest.raises(ModelError, match="`x=batch,free:float32` leaves sizes open") as caught:
        pool_of(adder, tmp_path / "pool")
    assert "--input x=1,3,224,224" in caught.value.hint
