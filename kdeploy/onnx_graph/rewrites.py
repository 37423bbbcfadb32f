"""Rewrite an exported ONNX graph into what runtimes execute fast; its numbers stay."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import ModelProto, helper
from onnx_ir.passes import common

from kdeploy.onnx_graph.graph import (
    add_constant,
    attribute,
    constant,
    first,
    input_of,
    maker,
    new_node,
    replace_node,
)
from kdeploy.onnx_graph.passes import graph_pass


def _means_over_all(model: ir.Model) -> list[ir.Node]:
    """Return the means over all positions that keep their axes."""
    return [
        node
        for node in model.graph
        if node.op_type == "ReduceMean" and attribute(node, "keepdims", 1) and _is_over_all(node)
    ]


def _is_over_all(node: ir.Node) -> bool:
    axes, shape = constant(input_of(node, 1)), first(node).shape
    if axes is None or shape is None or len(shape) < 3:
        return False
    return sorted(int(axis) % len(shape) for axis in axes) == list(range(2, len(shape)))


def _no_mean_is_left(model: ir.Model) -> str:
    return ", ".join(f"{node.name} is still a ReduceMean" for node in _means_over_all(model))


@graph_pass(ensures=_no_mean_is_left)
def pool_globally(model: ir.Model) -> None:
    """Write a mean over all positions as GlobalAveragePool: ReduceMean has no integer kernel."""
    means = [node for node in model.graph if node.op_type == "ReduceMean"]
    if any(first(node).shape is None for node in means):
        common.ShapeInferencePass()(model)
    for node in _means_over_all(model):
        name = str(node.outputs[0].name)
        replace_node(node, new_node("GlobalAveragePool", [first(node)], name, name=node.name or ""))


def _transposed_weights(model: ir.Model) -> list[tuple[ir.Node, ir.Node]]:
    """Return each Transpose of a stored matrix with the DequantizeLinear before it."""
    found = []
    for node in model.graph:
        before = maker(first(node), "DequantizeLinear") if node.op_type == "Transpose" else None
        stored = None if before is None else first(before)
        if before is not None and stored is not None and stored.is_initializer():
            held = constant(stored)
            found += [(node, before)] if held is not None and held.ndim == 2 else []
    return found


def _no_weight_is_transposed(model: ir.Model) -> str:
    found = _transposed_weights(model)
    return ", ".join(f"{node.name} still transposes a weight" for node, _ in found)


@graph_pass(ensures=_no_weight_is_transposed)
def transpose_weights(model: ir.Model) -> None:
    """Store an INT8 weight as a product reads it, instead of transposing its real values.

    A runtime fuses a product with dequantized inputs only when nothing stands between.
    """
    for node, before in _transposed_weights(model):
        codes = constant(first(before))
        assert codes is not None, "the weight is stored"
        weight = add_constant(model.graph, f"{first(before).name}_transposed", codes.T)
        inputs = [weight, *before.inputs[1:]]
        axis = 1 - attribute(before, "axis", 1)  # the channels' axis turns with the weight
        name = str(node.outputs[0].name)
        replace_node(
            node, new_node("DequantizeLinear", inputs, name, name=node.name or "", axis=axis)
        )


@graph_pass()
def store_integer_biases(model: ir.Model) -> None:
    """Store the bias of a quantized Gemm whose output stays float as int32 codes.

    Everywhere else ONNX Runtime does this by itself, but a Gemm with a float bias and without a
    quantizer after it, the usual last layer, it runs in float. Its scale is input scale x weight
    scale, far below that of any activation.
    """
    for node in list(model.graph):
        if node.op_type != "Gemm" or len(node.inputs) < 3 or _is_quantized(node.outputs[0]):
            continue
        scales = [_scale(value) for value in node.inputs[:2]]
        bias = constant(node.inputs[2])
        if bias is None or scales[0] is None or scales[1] is None:
            continue
        scale = (scales[0] * scales[1]).astype(np.float32)
        quantized = np.rint(bias.astype(np.float64) / scale)
        # A bias far larger than the sums it is added to does not fit int32: it stays float.
        if np.abs(quantized).max(initial=0) < 2**31:
            _store_bias(model.graph, node, quantized.astype(np.int32), scale)


@graph_pass()
def drop_traces(model: ir.Model) -> None:
    """Remove what the exporter noted of the source: paths and lines of this machine's files."""
    common.ClearMetadataAndDocStringPass()(model)
    graph = model.graph
    made = [value for node in graph for value in node.outputs]
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values(), *made):
        value.metadata_props.clear()
        value.doc_string = None
        held = value.const_value
        if held is not None and (held.doc_string or held.metadata_props):
            value.const_value = ir.tensor(held.numpy(), held.dtype, name=held.name)
    model.functions.clear()


def describe(model: ModelProto, metadata: Mapping[str, str]) -> None:
    """Write `metadata` into the file's properties."""
    model.producer_name = "kdeploy"
    helper.set_model_props(model, dict(sorted(metadata.items())))


def _is_quantized(value: ir.Value) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in value.consumers())


def _store_bias(
    graph: ir.Graph, node: ir.Node, quantized: NDArray[np.int32], scale: NDArray[np.float32]
) -> None:
    bias = node.inputs[2]
    assert bias is not None, "the bias is stored"
    # One for each number: with axis 0, DequantizeLinear takes as many scales as there are.
    scale = np.broadcast_to(scale, quantized.shape)
    held = [
        add_constant(graph, f"{bias.name}_{part}", value)
        for part, value in (("codes", quantized), ("step", scale))
    ]
    made = new_node("DequantizeLinear", held, f"{bias.name}_dequantized", axis=0)
    graph.insert_before(node, made)
    node.replace_input_with(2, made.outputs[0])


def _scale(value: ir.Value | None) -> NDArray[np.float32] | None:
    dequantize = maker(value, "DequantizeLinear")
    return None if dequantize is None else constant(input_of(dequantize, 1))
