# ruff: noqa: F811 - fixtures of another room
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.checks import file_bytes
from kdeploy.onnx_graph.facts import (
    DECLARED_SHAPES,
    OPEN,
    count_parameters,
    inputs_of,
    item_shape,
)
from kdeploy.onnx_graph.input_fitting import Declared, declared_file
from tests.bench.conftest import fixed_file, float_file, int8_file  # noqa: F401

LEARNED = 4 * 2 * 9 + 4 + 3 * 144 + 3


def test_an_item_is_the_input_without_its_batch(float_file, fixed_file):
    assert item_shape(float_file) == item_shape(fixed_file) == (2, 6, 6)


def test_int8_has_as_many_parameters_as_float(float_file, int8_file):
    assert count_parameters(float_file) == LEARNED
    assert count_parameters(int8_file) == LEARNED


def test_shapes_are_no_parameters_and_constants_may_be(float_file, tmp_path):
    model = onnx.load(float_file)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(9, np.int64), "shape"))
    value = numpy_helper.from_array(np.zeros(7, np.float32))
    model.graph.node.append(helper.make_node("Constant", [], ["k"], value=value))
    onnx.save(model, tmp_path / "more.onnx")
    assert count_parameters(tmp_path / "more.onnx") == LEARNED + 7


def test_the_size_includes_tensors_in_files_beside(float_file, tmp_path):
    path = tmp_path / "outside.onnx"
    onnx.save(
        onnx.load(float_file),
        path,
        save_as_external_data=True,
        location="outside.data",
        size_threshold=0,
    )
    beside = (tmp_path / "outside.data").stat().st_size
    assert beside >= 4 * (LEARNED - 7)
    assert file_bytes(path) == path.stat().st_size + beside
    assert file_bytes(float_file) == float_file.stat().st_size


def test_a_size_that_is_not_fixed_is_open(float_file, tmp_path):
    model = onnx.load(float_file)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "free.onnx")
    assert item_shape(tmp_path / "free.onnx") == (2, OPEN, 6)


def test_an_input_without_dimensions_asks_for_data(float_file, tmp_path):
    model = onnx.load(float_file)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ModelError, match="how large") as caught:
        item_shape(tmp_path / "bare.onnx")
    assert "--data" in (caught.value.hint or "")


@pytest.mark.parametrize("content", [b"", b"hello, I am text", b"\x08\x09\x3a\xff\xff\xff\x7f"])
def test_what_is_no_onnx_file_is_said_to_be_none(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.onnx"):
        count_parameters(path)


def test_an_axis_of_size_minus_one_is_open_as_converters_of_others_mean_it(float_file, tmp_path):
    model = onnx.load(float_file)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(model, tmp_path / "unnamed.onnx")
    (info,) = inputs_of(tmp_path / "unnamed.onnx")
    assert info.shape == ("?", 2, 6, 6)


def test_declared_sizes_of_several_inputs_are_told_beside_the_graph(float_file, tmp_path):
    model = onnx.load(float_file)
    model.graph.input.append(helper.make_tensor_value_info("mask", 1, ["batch", "free"]))
    onnx.save(model, tmp_path / "two.onnx")
    given = {"mask": Declared(shape=(1, 7))}
    declared_file(tmp_path / "two.onnx", tmp_path / "told.onnx", given)
    assert inputs_of(tmp_path / "told.onnx")[1].shape == ("batch", 7)
    dims = onnx.load(tmp_path / "told.onnx").graph.input[1].type.tensor_type.shape.dim
    assert [d.dim_param for d in dims] == ["batch", "free"]


@pytest.mark.parametrize("text", ["no json", "[1, 2]"])
def test_a_broken_table_of_sizes_is_one_error(float_file, tmp_path, text):
    model = onnx.load(float_file)
    onnx.helper.set_model_props(model, {DECLARED_SHAPES: text})
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(ModelError, match="no table of sizes") as caught:
        inputs_of(tmp_path / "broken.onnx")
    assert "--input" in caught.value.hint
