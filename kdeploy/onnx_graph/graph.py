"""Read and change a graph of onnx-ir: constants, attributes, readers, new tensors and operators.

A tensor of a graph is an `onnx_ir.Value`: it knows the operator that makes it and those that read
it, also inside of branches and loops. https://onnx.ai/ir-py/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]


def constant(value: ir.Value | None) -> Array | None:
    """Return the numbers of an initialiser or of a Constant, None of any other tensor."""
    tensor = constant_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return an initialiser or a Constant as it is stored: with its type, not yet read."""
    return None if value is None else ir.convenience.get_const_tensor(value)


def scalar(value: ir.Value | None) -> float | None:
    """Return a constant of one element, None for any other tensor."""
    held = constant(value)
    return None if held is None or held.size != 1 else float(held.reshape(-1)[0])


def input_of(node: ir.Node, position: int) -> ir.Value | None:
    """Return an input; None where it is left out."""
    return node.inputs[position] if position < len(node.inputs) else None


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Return an attribute of an operator; text is a `str`."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def maker(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """Return the operator that makes a tensor, if it is one of `kinds`; none named: any."""
    node = None if value is None else value.producer()
    return node if node is not None and (not kinds or node.op_type in kinds) else None


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return what alone reads a tensor, None where the caller reads it or several do."""
    readers = value.consumers()
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def first(node: ir.Node) -> ir.Value:
    """Return the first input of an operator that cannot do without."""
    return _given(node, 0)


def second(node: ir.Node) -> ir.Value:
    """Return the second input of an operator that cannot do without."""
    return _given(node, 1)


def _given(node: ir.Node, position: int) -> ir.Value:
    value = input_of(node, position)
    assert value is not None, f"{node.op_type} {node.name} has no input {position}"
    return value


def add_constant(graph: ir.Graph, name: str, numbers: Array) -> ir.Value:
    """Return a tensor that the graph shall hold; an equal one of this name is used again."""
    known = graph.initializers.get(name)
    if known is not None:
        held = constant(known)
        if held is not None and held.dtype == numbers.dtype and np.array_equal(held, numbers):
            return known
        # Another tensor has the name: a longer one, until one is free or equal.
        return add_constant(graph, f"{name}_", numbers)
    value = ir.Value(name=name, const_value=ir.tensor(np.asarray(numbers, order="C"), name=name))
    value.dtype, value.shape = ir.DataType.from_numpy(numbers.dtype), ir.Shape(numbers.shape)
    graph.register_initializer(value)
    return value


def new_node(
    kind: str,
    inputs: Sequence[ir.Value | None],
    output: str,
    *,
    name: str = "",
    domain: str = "",
    **attributes: Any,
) -> ir.Node:
    """Return an operator with one output of this name, which is its own name too unless given."""
    made = ir.Value(name=output)
    return ir.node(kind, inputs, attributes, domain=domain, outputs=[made], name=name or output)


def bypass(node: ir.Node, value: ir.Value) -> None:
    """Take an operator out: what read its first output reads `value`."""
    node.outputs[0].replace_all_uses_with(value)
    remove_node(node)


def remove_node(node: ir.Node) -> None:
    """Take an operator out whose outputs nothing reads."""
    assert node.graph is not None, f"{node.op_type} {node.name} is in no graph"
    node.graph.remove(node, safe=True)


def replace_node(node: ir.Node, other: ir.Node) -> None:
    """Put an operator in the place of one, whose output's name and readers it gets."""
    graph, old, new = node.graph, node.outputs[0], other.outputs[0]
    assert graph is not None, f"{node.op_type} {node.name} is in no graph"
    new.name, new.type, new.shape = old.name, old.type, old.shape
    graph.insert_before(node, other)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
