"""Preprocessing as operators of an ONNX file: bytes of pixels in, of any size where data resize.

The file then takes uint8 pixels (batch, height, width, channels), as cameras and decoders give
them. Resizing is ONNX's `Resize` with `antialias`, whose triangle leaves out what lies beyond the
border (`exclude_outside`): Pillow's filter, up to one step of 255. What is scaled afterwards is
bit for bit what Python scales, since it is the same arithmetic in the same order.

Nothing here is quantized: all of it stands in front of the first quantizer of the file.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.graph import Array
from kdeploy.onnx_graph.steps import Steps
from kdeploy.preprocessing import Preprocessing

PIXELS = "pixels"
"""The input that takes them."""
GREY = 114
"""Of the bars beside a picture that keeps its shape."""
FIRST_OPSET = 18  # of `Resize` with `antialias` and `axes`
FOLDED = "kdeploy.folded"
"""The property of a file that prepares its pictures by itself."""


def fold_preprocessing(model: ir.Model, form: Preprocessing) -> str:
    """Let the file make its only input of pixels by itself; return the inner tensor's name.

    Raises:
        ModelError: the input is no picture, or the operators do not exist in the file's opset.
    """
    check_form(form)
    graph = model.graph
    taken = _only_input(graph)
    opset = model.opset_imports.get("", 0)
    if opset < FIRST_OPSET:
        raise ModelError(
            f"the file is of opset {opset}, and preprocessing folds from opset {FIRST_OPSET} on",
            hint=f"export it with `opset: {FIRST_OPSET}`",
        )
    channels, height, width = form.shape
    sizes = ("height", "width") if form.resize else (height, width)
    batch = taken.shape[0] if taken.shape is not None else "batch"
    pixels = ir.Value(
        name=PIXELS,
        type=ir.TensorType(ir.DataType.UINT8),
        shape=ir.Shape([batch, *sizes, channels]),
    )
    steps = Steps(graph, "preprocessing")
    made = _normalized(steps, _resized(steps, pixels, form), form)
    made.shape, made.type = taken.shape, taken.type
    graph.inputs[graph.inputs.index(taken)] = pixels
    taken.replace_all_uses_with(made)
    steps.put_first()
    model.metadata_props[FOLDED] = "true"
    return str(made.name)


def check_form(form: Preprocessing) -> None:
    """Refuse what is not made of the pixels of one picture.

    Raises:
        ModelError: items are something else.
    """
    if form.inputs:
        found = f"its items have several inputs: {form.told_shape()}"
    elif form.is_tokens:
        found = "its items are token ids"
    elif len(form.shape) != 3 or form.shape[0] not in (1, 3):
        found = f"its items have shape {list(form.shape)}"
    else:
        return
    raise ModelError(
        "preprocessing folds into a file that takes one picture, grey or of three colours, and "
        f"{found}",
        hint="leave `fold_preprocessing` (`--fold-preprocessing`) out: the runners of the bundle "
        "prepare such items",
    )


def _only_input(graph: ir.Graph) -> ir.Value:
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    if len(inputs) != 1:
        names = ", ".join(f"`{value.name}`" for value in inputs)
        raise ModelError(
            f"preprocessing folds into a file of one input, and this one takes {names}",
            hint="leave `fold_preprocessing` out, or export a model of one picture",
        )
    return inputs[0]


def _resized(steps: Steps, pixels: ir.Value, form: Preprocessing) -> ir.Value:
    """Return pixels at the size of the form, still bytes."""
    wanted = np.array(form.shape[1:], np.int64)
    if not form.resize:
        return pixels
    if form.resize == "bilinear":
        return _resize(steps, pixels, wanted)
    has = steps.add("Shape", pixels, start=1, end=3)
    # In float64, as Python does it: a size must not fall on the other side of a half.
    as_real = steps.add("Cast", has, to=ir.DataType.DOUBLE)
    scale = steps.add("ReduceMin", steps.add("Div", wanted.astype(np.float64), as_real))
    places = steps.add("Mul", as_real, scale)
    rounded = steps.add("Floor", steps.add("Add", places, np.array([0.5])))
    whole = steps.add("Cast", rounded, to=ir.DataType.INT64)
    size = steps.add("Max", steps.add("Min", whole, wanted), np.array([1], np.int64))
    bars = steps.add("Sub", wanted, size)
    before = steps.add("Div", bars, np.array([2], np.int64))
    after = steps.add("Sub", bars, before)
    none = np.array([0], np.int64)
    pads = steps.add("Concat", none, before, none, none, after, none, axis=0)
    return steps.add("Pad", _resize(steps, pixels, size), pads, np.array(GREY, np.uint8))


def _resize(steps: Steps, pixels: ir.Value, size: ir.Value | Array) -> ir.Value:
    return steps.add(
        "Resize",
        pixels,
        None,
        None,
        size,
        axes=[1, 2],
        mode="linear",
        antialias=1,
        exclude_outside=1,
        coordinate_transformation_mode="half_pixel",
    )


def _normalized(steps: Steps, pixels: ir.Value, form: Preprocessing) -> ir.Value:
    """Return floats (batch, channels, height, width): `(x * scale - mean) / std`."""
    made = steps.add("Cast", pixels, to=ir.DataType.FLOAT)
    made = steps.add("Mul", made, np.array([form.scale], np.float32))
    made = steps.add("Sub", made, np.asarray(form.mean, np.float32))
    made = steps.add("Div", made, np.asarray(form.std, np.float32))
    return steps.add("Transpose", made, perm=[0, 3, 1, 2])
