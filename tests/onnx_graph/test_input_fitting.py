"""Files that take something else than the data give: open sizes, channels last, whole numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.errors import ModelError, RecipeError
from kdeploy.onnx_graph.input_fitting import (
    Declared,
    declared_file,
    fitted_file,
    input_dtype,
    is_declared,
    parse_inputs,
)
from kdeploy.preprocessing import Preprocessing

FORM = Preprocessing(
    shape=(3, 4, 5), scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), classes=("a", "b")
)
RNG = np.random.default_rng(0)
STORED = RNG.integers(0, 256, (6, 3, 4, 5), dtype=np.uint8)
WEIGHT = RNG.normal(size=(3, 2)).astype(np.float32)


def file(path, dims, kind=TensorProto.FLOAT, *, positions):
    """Write a file that sums over positions and weighs the channels: (batch, 2)."""
    nodes = [
        helper.make_node("Cast", ["x"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["real", "positions"], ["sums"], keepdims=0),
        helper.make_node("MatMul", ["sums", "weight"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("x", kind, ["batch", *dims])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(np.asarray(positions, np.int64), "positions"),
            numpy_helper.from_array(WEIGHT, "weight"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def answers(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def shape_of(path):
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    return [d.dim_value or d.dim_param for d in dims]


def test_open_sizes_become_those_of_the_data_and_the_batch_stays_open(tmp_path):
    source = file(tmp_path / "open.onnx", [3, "h", "w"], positions=[2, 3])
    said = fitted_file(source, tmp_path / "new.onnx", FORM, {})
    assert said == ["its open sizes are [3, 4, 5], those of the data"]
    assert shape_of(tmp_path / "new.onnx") == ["batch", 3, 4, 5]
    x = FORM.apply(STORED)
    assert np.array_equal(answers(tmp_path / "new.onnx", x), answers(source, x))


def test_a_file_that_fits_is_left_as_it_is(tmp_path):
    source = file(tmp_path / "fits.onnx", [3, 4, 5], positions=[2, 3])
    assert fitted_file(source, tmp_path / "new.onnx", FORM, {}) == []
    other = file(tmp_path / "other.onnx", [3, 9, 9], positions=[2, 3])
    assert fitted_file(other, tmp_path / "new.onnx", FORM, {}) == []
    opened = file(tmp_path / "open.onnx", [3, "h", 5], positions=[2, 3])
    assert fitted_file(opened, tmp_path / "new.onnx", FORM, {}, closes=False) == []
    assert not (tmp_path / "new.onnx").exists()


def test_channels_last_are_transposed_to(tmp_path):
    source = file(tmp_path / "last.onnx", ["h", "w", 3], positions=[1, 2])
    said = fitted_file(source, tmp_path / "new.onnx", FORM, {})
    assert said[-1] == "it takes channels last: items are transposed"
    assert shape_of(tmp_path / "new.onnx") == ["batch", 3, 4, 5]
    x = FORM.apply(STORED)
    expected = answers(source, np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    assert answers(tmp_path / "new.onnx", x) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT32])
@pytest.mark.parametrize("is_last", [False, True])
def test_whole_numbers_are_those_that_were_stored(tmp_path, kind, is_last):
    dims, positions = ([4, 5, 3], [1, 2]) if is_last else ([3, 4, 5], [2, 3])
    source = file(tmp_path / "whole.onnx", dims, kind, positions=positions)
    fitted_file(source, tmp_path / "new.onnx", FORM, {})
    given = STORED.transpose(0, 2, 3, 1) if is_last else STORED
    expected = answers(source, np.ascontiguousarray(given).astype(input_dtype(source)))
    assert np.array_equal(answers(tmp_path / "new.onnx", FORM.apply(STORED)), expected)


def test_token_ids_are_cast(tmp_path):
    form = Preprocessing(shape=(4,), dtype="int64", vocabulary=9)
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"])]
    table = numpy_helper.from_array(RNG.normal(size=(9, 2)).astype(np.float32), "table")
    ids = helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", "tokens"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "tokens", 2])
    graph = helper.make_graph(nodes, "table", [ids], [y], [table])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "ids.onnx")
    said = fitted_file(tmp_path / "ids.onnx", tmp_path / "new.onnx", form, {})
    assert said[-1] == "it takes int32: items are cast to it"
    x = RNG.integers(0, 9, (5, 4))
    expected = answers(tmp_path / "ids.onnx", x.astype(np.int32))
    assert np.array_equal(answers(tmp_path / "new.onnx", x), expected)


def test_declared_sizes_are_in_the_file_and_a_batch_that_is_open_stays_so(tmp_path):
    source = file(tmp_path / "open.onnx", [3, "h", "w"], positions=[2, 3])
    declared_file(source, tmp_path / "new.onnx", {"x": Declared(shape=(1, 3, 6, 7))})
    assert shape_of(tmp_path / "new.onnx") == ["batch", 3, 6, 7]
    assert (is_declared(tmp_path / "new.onnx"), is_declared(source)) == (True, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("y=1,3,4,5", "has no input `y`"),
        ("x=1,2,4,5", "`x=1,2,4,5` does not fit"),
        ("x=1,3,4", "`x=1,3,4` does not fit"),
        ("x=1,3,4,5:uint8", "`x=1,3,4,5:uint8` does not fit"),
    ],
)
def test_what_the_file_does_not_take_is_refused_with_what_it_takes(tmp_path, text, message):
    source = file(tmp_path / "open.onnx", [3, "h", "w"], positions=[2, 3])
    with pytest.raises(ModelError, match=message) as caught:
        declared_file(source, tmp_path / "new.onnx", parse_inputs([text], where="--input"))
    assert "`x=batch,3,h,w:float32`" in caught.value.hint


def test_what_is_declared_must_be_what_the_data_are(tmp_path):
    source = file(tmp_path / "open.onnx", [3, "h", "w"], positions=[2, 3])
    with pytest.raises(ModelError, match=r"`x=1,3,9,5` is declared, .* shape \[3, 4, 5\]"):
        fitted_file(source, tmp_path / "new.onnx", FORM, {"x": Declared(shape=(1, 3, 9, 5))})


def test_inputs_are_read_with_and_without_a_type():
    assert parse_inputs(["x=1,3,224,224", "a/b:0=2:int32"], where="--input") == {
        "x": Declared(shape=(1, 3, 224, 224)),
        "a/b:0": Declared(shape=(2,), dtype="int32"),
    }


@pytest.mark.parametrize("text", ["x", "x=", "=1,2", "x=1,0", "x=-1", "x=1,,2", "x=99999999", 7])
def test_other_texts_are_refused_with_the_form(text):
    with pytest.raises(RecipeError, match="--input") as caught:
        parse_inputs([text], where="--input")
    assert "NAME=1,3,224,224" in caught.value.hint


def test_an_input_is_declared_once():
    with pytest.raises(RecipeError):
        parse_inputs(["x=1", "x=2"], where="--input")
