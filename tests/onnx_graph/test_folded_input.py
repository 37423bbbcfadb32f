"""Preprocessing as operators, against Pillow and numpy."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.folded_input import FOLDED, fold_preprocessing
from kdeploy.package.runner.python.given import letterboxed
from kdeploy.preprocessing import Preprocessing

SIZES = [(20, 33), (40, 66), (7, 5), (133, 41), (1, 1), (20, 90), (480, 640)]


def identity(shape, *, opset=18, inputs=1):
    """Return a model that gives what it takes."""
    ports = [
        [helper.make_tensor_value_info(f"{kind}{i}", TensorProto.FLOAT, ["batch", *shape])
         for i in range(inputs)]
        for kind in ("x", "y")
    ]  # fmt: skip
    nodes = [helper.make_node("Identity", [f"x{i}"], [f"y{i}"]) for i in range(inputs)]
    opsets = [helper.make_opsetid("", opset)]
    graph = helper.make_graph(nodes, "identity", *ports)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(model, form, pixels):
    changed = ir.from_proto(model)
    fold_preprocessing(changed, form)
    written = ir.to_proto(changed)
    onnx.checker.check_model(written)
    session = onnxruntime.InferenceSession(written.SerializeToString())
    assert session.get_modelmeta().custom_metadata_map[FOLDED] == "true"
    assert session.get_inputs()[0].type == "tensor(uint8)"
    return session.run(None, {"pixels": pixels})[0]


def form_of(channels, resize):
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    shape = (channels, 20, 33)
    return Preprocessing(shape=shape, scale=1 / 255, mean=mean, std=std, resize=resize)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_a_fixed_size_are_scaled_bit_for_bit_as_in_python(channels):
    form = form_of(channels, "")
    stored = np.random.default_rng(0).integers(0, 256, (4, channels, 20, 33), np.uint8)
    found = run(identity(form.shape), form, stored.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(found, form.apply(stored))


@pytest.mark.parametrize("resize", ["bilinear", "letterbox"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_pixels_of_any_size_are_pillows_to_one_step(size, channels, resize):
    form = form_of(channels, resize)
    picture = np.random.default_rng(1).integers(0, 256, (*size, channels), np.uint8)
    image = Image.fromarray(picture if channels == 3 else picture[..., 0])
    image = letterboxed(image, 33, 20) if resize == "letterbox" else image
    image = image.resize((33, 20), Image.Resampling.BILINEAR)
    expected = np.asarray(image).reshape(1, 20, 33, channels).transpose(0, 3, 1, 2)
    found = run(identity(form.shape), form, picture[None])
    spread = np.reshape(form.std, (-1, 1, 1)) / form.scale
    assert np.abs((found - form.apply(expected)) * spread).max() <= 1 + 1e-3


def test_bars_stay_where_python_puts_them():
    form = form_of(3, "letterbox")
    white = np.full((1, 10, 10, 3), 255, np.uint8)
    grey = form.apply(np.full((1, 3, 20, 33), 114, np.uint8))
    found = run(identity(form.shape), form, white)
    np.testing.assert_array_equal(found[..., :6], grey[..., :6])
    np.testing.assert_array_equal(found[..., 26:], grey[..., 26:])
    assert (found[..., 6:26] != grey[..., 6:26]).all()


@pytest.mark.parametrize(
    ("form", "model", "expected"),
    [
        (Preprocessing(shape=(8,), dtype="int64", vocabulary=9), identity((8,)), "token ids"),
        (Preprocessing(shape=(1, 400)), identity((1, 400)), r"shape \[1, 400\]"),
        (Preprocessing(shape=(4, 20, 33)), identity((4, 20, 33)), r"shape \[4, 20, 33\]"),
        (
            Preprocessing(shape=(), inputs={"a": form_of(1, ""), "b": form_of(1, "")}),
            identity((1, 20, 33), inputs=2),
            "several inputs: `a`",
        ),
        (form_of(1, ""), identity((1, 20, 33), inputs=2), "this one takes `x0`, `x1`"),
        (form_of(1, ""), identity((1, 20, 33), opset=17), "opset 17, .* from opset 18"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(form, model, expected):
    with pytest.raises(ModelError, match=expected) as caught:
        fold_preprocessing(ir.from_proto(model), form)
    assert "fold_preprocessing" in caught.value.hint or "opset: 18" in caught.value.hint
