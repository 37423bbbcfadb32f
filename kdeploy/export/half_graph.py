"""A float16 graph for a processor: in float32, each tensor rounded as soon as it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx import numpy_helper as numpy_of

# Below it float16 loses digits, and some devices take zero instead.
SMALLEST_NORMAL = float(np.finfo(np.float16).tiny)
Rounding = Callable[[GraphProto, str, str], None]


def is_half(program: ModelProto) -> bool:
    """Return whether a file holds float16 numbers, or makes them."""
    # A file may hold its weights as float32 and cast them.
    held = any(t.data_type == TensorProto.FLOAT16 for t in program.graph.initializer)
    return held or any(_cast_to_half(node) is not None for node in program.graph.node)


def in_float32(program: ModelProto, half: Sequence[str], rounding: Rounding) -> ModelProto:
    """Return the graph in float32 with the tensors of `half` rounded to float16 once made.

    Each of them adds two outputs, its largest magnitude and whether it is no number anywhere.
    """
    twin = ModelProto()
    twin.CopyFrom(program)
    graph, chosen = twin.graph, set(half)
    _widen(graph)
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        made = [tensor for tensor in node.output if tensor in chosen]
        # Readers keep the old name, and so read what is rounded.
        node.output[:] = [_exact(t) if t in chosen else t for t in node.output]
        graph.node.append(node)
        for tensor in made:
            rounding(graph, _exact(tensor), tensor)
            _watch(graph, tensor)
    return twin


def _widen(graph: GraphProto) -> None:
    """Make float32 of all that is float16, in branches and loops too."""
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        cast = _cast_to_half(node)
        if cast is not None:
            cast.i = TensorProto.FLOAT
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            if attribute.HasField("g"):
                _widen(attribute.g)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        values = numpy_of.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_of.from_array(values, tensor.name))


def _cast_to_half(node: NodeProto) -> Any:
    """Return the attribute that makes a node's output float16."""
    named = (a for a in node.attribute if a.name in ("to", "dtype"))
    return next((a for a in named if a.i == TensorProto.FLOAT16), None)


def _exact(tensor: str) -> str:
    return f"{tensor}/exact"


def keep(graph: GraphProto, source: str, target: str) -> None:
    """Hand a tensor on as it is: float32."""
    graph.node.append(helper.make_node("Identity", [source], [target]))


def rounded(graph: GraphProto, source: str, target: str) -> None:
    """Hand on what float16 holds of a tensor."""
    half = f"{target}/half"
    graph.node.append(helper.make_node("Cast", [source], [half], to=TensorProto.FLOAT16))
    graph.node.append(helper.make_node("Cast", [half], [target], to=TensorProto.FLOAT))


def rounded_and_flushed(graph: GraphProto, source: str, target: str) -> None:
    """Round, and set to zero what float16 holds with fewer digits."""
    held, size, small = (f"{target}/{part}" for part in ("held", "size", "small"))
    bound, zero = f"{target}/bound", f"{target}/zero"
    rounded(graph, source, held)
    for name, value in ((bound, SMALLEST_NORMAL), (zero, 0.0)):
        graph.initializer.append(numpy_of.from_array(np.array(value, np.float32), name))
    graph.node.append(helper.make_node("Abs", [held], [size]))
    graph.node.append(helper.make_node("Less", [size, bound], [small]))
    graph.node.append(helper.make_node("Where", [small, zero, held], [target]))


def _watch(graph: GraphProto, tensor: str) -> None:
    size, largest = f"{tensor}/magnitude", f"{tensor}/largest"
    strange, number, has_nan = f"{tensor}/nan", f"{tensor}/is_nan", f"{tensor}/has_nan"
    graph.node.append(helper.make_node("Abs", [_exact(tensor)], [size]))
    graph.node.append(helper.make_node("ReduceMax", [size], [largest], keepdims=0))
    graph.node.append(helper.make_node("IsNaN", [_exact(tensor)], [strange]))
    graph.node.append(helper.make_node("Cast", [strange], [number], to=TensorProto.FLOAT))
    graph.node.append(helper.make_node("ReduceMax", [number], [has_nan], keepdims=0))
    for name in (largest, has_nan):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
