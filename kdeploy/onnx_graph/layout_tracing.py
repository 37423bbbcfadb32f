"""Follow numbers through the operators of an ONNX graph that only move them.

Which number of one tensor stands where in another is found by running the operators between them
(Reshape, Transpose, Slice, Gather ...) on the numbers' places, with a prime for every open size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from kdeploy.onnx_graph.graph import attribute, constant, first, input_of, scalar

Places = NDArray[np.int32]
# For open sizes: far enough from the constants of models that no two sizes are taken for one.
PRIMES = (13, 11, 17, 19, 23, 29)
_RESHAPED = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
_FACTORS = frozenset({"Mul", "Div"})
_STORED_BYTES = 1024  # larger constants are weights: only their shapes matter
_TO_THE_END = 2**31 - 1  # as torch's exporter and others write it
_AXIS = "kdeploy.first_axis"


class Shapes:
    """The shapes and types of all tensors of a graph, with primes for open sizes."""

    def __init__(self, model: ir.Model) -> None:
        self._shapes, self._types = _shapes(ir.to_proto(model))

    def of(self, value: ir.Value | None) -> tuple[int | None, ...] | None:
        """Return the shape of a tensor; None if not even its number of axes is known."""
        return None if value is None else self._shapes.get(str(value.name))

    def size(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """Return the shape of a tensor with primes for open sizes; None if not all are known."""
        shape = self.of(value) if self.of(value) is not None else (None,)
        return tuple(d for d in shape or () if d) if all(shape or ()) else None

    def is_float(self, value: ir.Value) -> bool:
        """Return whether a tensor holds float32."""
        return self._types.get(str(value.name)) == onnx.TensorProto.FLOAT


def scaled(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """Return what is multiplied or divided by a constant, and the factor."""
    if node is None or node.op_type not in _FACTORS:
        return None
    for place in (1, 0) if node.op_type == "Mul" else (1,):
        factor, value = scalar(node.inputs[place]), node.inputs[1 - place]
        if factor and value is not None:
            return value, factor if node.op_type == "Mul" else 1 / factor
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTensor:
    """A tensor, and where in it each number of another one stands."""

    value: ir.Value
    shape: tuple[int, ...]
    places: Places
    """In the shape of the other tensor."""
    scale: float
    """What the numbers were multiplied with on the way."""


def origins(shapes: Shapes, value: ir.Value) -> Iterator[SourceTensor]:
    """Yield the tensors whose numbers `value` holds, the farthest first, itself last."""
    path: list[tuple[ir.Node, ir.Value, float]] = []  # from `value` on, each with what it writes
    values = [value]
    while (node := values[-1].producer()) is not None:
        by_constant = scaled(node)
        if by_constant is None and not is_move(node):
            break
        source, factor = by_constant or (first(node), 1.0)
        path.append((node, values[-1], factor))
        values.append(source)
    for steps in range(len(path), -1, -1):
        shape = shapes.size(values[steps])
        if shape is None:
            continue
        places: Places | None = places_of(shape)
        scale = 1.0
        for node, output, factor in reversed(path[:steps]):
            if places is not None:
                places = moved(shapes, node, output, places)
            scale *= factor
        if places is not None:
            yield SourceTensor(value=values[steps], shape=shape, places=places, scale=scale)


def places_of(shape: tuple[int, ...]) -> Places:
    """Return the place of each number of a tensor, in its shape."""
    return np.arange(np.prod(shape, dtype=np.int64), dtype=np.int32).reshape(shape)


def moved(shapes: Shapes, node: ir.Node, output: ir.Value, places: Places) -> Places | None:
    """Return where an operator moves (and scales) numbers; None if a size is not known."""
    shape = shapes.size(output)
    if shape is None:
        return None
    if node.op_type in _RESHAPED | _FACTORS:
        # A factor that broadcasts makes more numbers than there were.
        return places.reshape(shape) if places.size == np.prod(shape) else None
    if node.op_type == "Transpose":
        return places.transpose(attribute(node, "perm", list(range(places.ndim))[::-1]))
    if node.op_type == "Gather":
        chosen = constant(node.inputs[1])
        assert chosen is not None, "`is_move` asks for it"
        return places.take(chosen, axis=attribute(node, "axis", 0))
    return _part(shapes, node, output, places)


def is_move(node: ir.Node) -> bool:
    """Say whether an operator only moves numbers of its first input, in a way that is known."""
    if node.op_type in {"Slice", "Gather"}:
        return all(constant(value) is not None for value in node.inputs[1:] if value is not None)
    return node.op_type in _RESHAPED | {"Transpose", "Split"}


def _part(shapes: Shapes, node: ir.Node, output: ir.Value, places: Places) -> Places | None:
    """Return what Slice or Split leaves."""
    if node.op_type == "Slice":
        held = (constant(input_of(node, position)) for position in (1, 2, 3, 4))
        starts, ends, axes, steps = ([] if one is None else one.tolist() for one in held)
        for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
            axis = axes[place] if axes else place
            # The size may be a prime that stands for an open one.
            if places.shape[axis] < end < _TO_THE_END:
                return None  # cut or not is a matter of the size
            index: list[slice] = [slice(None)] * places.ndim
            index[axis] = slice(start, end, steps[place] if steps else 1)
            places = places[tuple(index)]
        return places
    axis = attribute(node, "axis", 0)
    sizes = [shapes.size(value) for value in node.outputs]
    ends_at = list(itertools.accumulate(size[axis] for size in sizes if size is not None))
    if None in sizes or ends_at[-1] != places.shape[axis]:
        return None
    return np.split(places, ends_at[:-1], axis=axis)[list(node.outputs).index(output)]


def _shapes(model: ModelProto) -> tuple[dict[str, tuple[int | None, ...]], dict[str, int]]:
    """Return shapes and types of all tensors, with primes for the open sizes of the inputs."""
    bound = _without_weights(model)
    primes = itertools.chain(PRIMES, itertools.count(31, 2))
    sizes: dict[str, int] = {}
    for value in bound.graph.input:
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                name = dim.dim_param or f"{value.name}.{place}"
                dim.dim_value = sizes.get(name) or next(primes)  # one name, one size, in all inputs
                sizes[name] = dim.dim_value
    known = _inferred(bound)
    for node in bound.graph.node:
        # onnx computes sizes through Unsqueeze, and not through Reshape, which means the same here.
        if node.op_type == "Reshape" and known.get(node.input[0], (None, 0))[0] == ():
            node.CopyFrom(helper.make_node("Unsqueeze", [node.input[0], _AXIS], node.output))
    bound.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), _AXIS))
    known = _inferred(bound)
    shapes = {name: shape for name, (shape, _) in known.items() if shape is not None}
    return shapes, {name: kind for name, (_, kind) in known.items()}


def _without_weights(model: ModelProto) -> ModelProto:
    """Return a copy for shape inference: weights are inputs of it, and no shape is known yet."""
    graph = onnx.GraphProto(name="shapes", node=model.graph.node, input=model.graph.input)
    graph.output.extend(onnx.ValueInfoProto(name=output.name) for output in model.graph.output)
    given = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= _STORED_BYTES:
            graph.initializer.append(tensor)
        # Files of IR 3 list their weights as inputs, too.
        elif tensor.name not in given:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(value)
    return onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, graph=graph
    )


def _inferred(model: ModelProto) -> dict[str, tuple[tuple[int | None, ...] | None, int]]:
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except onnx.shape_inference.InferenceError:  # of a file that contradicts itself
        return {}
    found: dict[str, tuple[tuple[int | None, ...] | None, int]]
    found = {t.name: (tuple(t.dims), t.data_type) for t in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        dims = (d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
        found[value.name] = tuple(dims) if kind.HasField("shape") else None, kind.elem_type
    return found
