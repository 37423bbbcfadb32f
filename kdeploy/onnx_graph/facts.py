"""What an ONNX file says about itself: the shape of an item, the numbers it learned.

Source: the ONNX specification, https://github.com/onnx/onnx/blob/main/docs/IR.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.checks import read_onnx
from kdeploy.tensor_info import TensorInfo

if TYPE_CHECKING:
    from onnx import ModelProto

# Inputs that hold scales and zero-points, by operator; what remains was learned.
_BOOKKEEPING = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "DynamicQuantizeLSTM": (8, 9, 10, 11),
}
# Of element types FLOAT, UINT8, INT8, INT32, FLOAT16, DOUBLE, BFLOAT16, UINT4, INT4: shapes and
# indices are INT64, and nobody learned them.
_LEARNED_TYPES = frozenset({1, 2, 3, 6, 10, 11, 16, 21, 22})
_INT32, _INT64 = 6, 7
OPEN = 0  # in a shape: any size is taken
DECLARED_SHAPES = "kdeploy.input.shapes"
"""The property that tells sizes of inputs which the graph of a file has to leave open."""


def properties(model: ModelProto) -> Mapping[str, str]:
    """Return what a file says of itself."""
    return {p.key: p.value for p in model.metadata_props}


def item_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of one input item, without the batch; `OPEN` for what is not fixed.

    Raises:
        ModelError: no ONNX file, or one that does not say how many dimensions its input has.
    """
    tensor = _input(path)
    shape = tuple(d.dim_value for d in list(tensor.shape.dim)[1:]) if tensor else ()
    if not shape:
        raise ModelError(
            f"{path} does not say how large its input is: {list(shape)}",
            hint="name the data to measure it on (`--data`)",
        )
    return shape


def inputs_of(path: Path) -> tuple[TensorInfo, ...]:
    """Return all that the file takes.

    Raises:
        ModelError: no ONNX file, or an input that is no tensor or has no shape.
    """
    model = read_onnx(path)
    stored = {tensor.name for tensor in model.graph.initializer}
    told = (_told(path, value) for value in model.graph.input if value.name not in stored)
    declared = _declared_shapes(path, model)
    return tuple(_closed(info, declared.get(info.name, ())) for info in told)


def outputs_of(path: Path) -> tuple[TensorInfo, ...]:
    """Return all that the file gives.

    Raises:
        ModelError: no ONNX file, or an output that is no tensor or has no shape.
    """
    return tuple(_told(path, value) for value in read_onnx(path).graph.output)


def _declared_shapes(path: Path, model: Any) -> dict[str, Any]:
    """Return the sizes that somebody named of inputs, where the graph leaves them open."""
    text = next((p.value for p in model.metadata_props if p.key == DECLARED_SHAPES), "{}")
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ModelError(
            f"{path}: its property `{DECLARED_SHAPES}` is no table of sizes",
            hint="declare them again: `--input NAME=1,3,224,224`",
        )
    return found


def _closed(info: TensorInfo, declared: Sequence[Any]) -> TensorInfo:
    """Return an input with the sizes that were declared; a batch that is open stays open."""
    shape = tuple(
        # Axis 0 is the batch.
        declared[axis] if axis and isinstance(size, str) and len(declared) > axis else size
        for axis, size in enumerate(info.shape)
    )
    return replace(info, shape=shape)


def _told(path: Path, value: Any) -> TensorInfo:
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or not tensor.HasField("shape"):
        raise ModelError(
            f"{path}: `{value.name[:200]}` is no tensor with a shape",
            hint="export it again, with the shapes of its inputs and outputs",
        )
    dims = tensor.shape.dim
    sizes = (d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims)
    dtype = np.dtype(tensor_dtype_to_np_dtype(tensor.elem_type)).name
    return TensorInfo(name=value.name, shape=tuple(sizes), dtype=dtype)


def takes_integers(path: Path) -> bool:
    """Return whether the input holds integers of 32 or 64 bits: token ids."""
    tensor = _input(path)
    return tensor is not None and tensor.elem_type in (_INT32, _INT64)


def count_parameters(path: Path) -> int:
    """Return how many numbers the file has learned, whatever they are stored in."""
    model = read_onnx(path)
    nodes = list(_nodes(model.graph))
    bookkeeping = {
        node.input[i]
        for node in nodes
        for i in _BOOKKEEPING.get(node.op_type, ())
        if i < len(node.input)
    }
    steps = {n.output[1] for n in nodes if n.op_type == "DynamicQuantizeLinear"}
    # The scales of weights are multiplied by that of the input before they are used.
    bookkeeping |= {
        name for n in nodes if n.op_type == "Mul" and steps & set(n.input) for name in n.input
    }
    # So are those of a table's rows, by codes that were picked and made floats.
    picked = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Gather"}
    codes = {n.output[0] for n in nodes if n.op_type == "Cast" and n.input[0] in picked}
    bookkeeping |= {
        picked[name]
        for node in nodes
        if node.op_type == "Mul" and codes & set(node.input)
        for name in node.input
        if name in picked
    }
    constants = [
        (node.output[0], attribute.t)
        for node in nodes
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    tensors = [(t.name, t) for t in model.graph.initializer] + constants
    return sum(
        math.prod(tensor.dims)
        for name, tensor in tensors
        if name not in bookkeeping and tensor.data_type in _LEARNED_TYPES
    )


def _input(path: Path) -> Any:
    """Return the type of the first input that is not stored in the file, None without one."""
    model = read_onnx(path)
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in stored]
    return inputs[0].type.tensor_type if inputs else None


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g)
