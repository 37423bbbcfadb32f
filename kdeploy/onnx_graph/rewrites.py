"""Rewrite an exported ONNX graph into what runtimes execute fast; its numbers stay.

Each function takes an `onnx.ModelProto` and changes it in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper


def pool_globally(model: ModelProto) -> None:
    """Write a mean over all positions as GlobalAveragePool: ReduceMean has no integer kernel."""
    constants = _constants(model)
    dims = _num_dims(model)
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or not _attribute(node, "keepdims", 1):
            continue
        axes = constants.get(node.input[1]) if len(node.input) > 1 else None
        num_dims = dims.get(node.input[0], 0)
        if axes is None or num_dims < 3:
            continue
        if sorted(int(axis) % num_dims for axis in axes) == list(range(2, num_dims)):
            pooled = helper.make_node(
                "GlobalAveragePool", node.input[:1], node.output, name=node.name
            )
            node.CopyFrom(pooled)


def transpose_weights(model: ModelProto) -> None:
    """Store an INT8 weight as a product reads it, instead of transposing its real values.

    A runtime fuses a product with dequantized inputs only when nothing stands between.
    """
    stored = {t.name: t for t in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        before = producers.get(node.input[0]) if node.op_type == "Transpose" else None
        if before is None or before.op_type != "DequantizeLinear":
            continue
        weight = stored.get(before.input[0])
        if weight is None or len(weight.dims) != 2:
            continue
        name = f"{weight.name}_transposed"
        if name not in stored:
            codes = np.ascontiguousarray(numpy_helper.to_array(weight).T)
            model.graph.initializer.append(numpy_helper.from_array(codes, name))
            stored[name] = model.graph.initializer[-1]
        inputs = [name, *before.input[1:]]
        axis = 1 - _attribute(before, "axis", 1)
        node.CopyFrom(
            helper.make_node("DequantizeLinear", inputs, node.output, name=node.name, axis=axis)
        )


def store_integer_biases(model: ModelProto) -> None:
    """Store the bias of a quantized Gemm whose output stays float as int32 codes.

    Everywhere else ONNX Runtime does this by itself, but a Gemm with a float bias and without a
    quantizer after it, the usual last layer, it runs in float. The step is input scale x weight
    scale, far below that of any activation.
    """
    constants = _constants(model)
    producers = {output: node for node in model.graph.node for output in node.output}
    quantized = {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    added: list[tuple[NodeProto, NodeProto]] = []
    for node in model.graph.node:
        if node.op_type != "Gemm" or len(node.input) < 3 or node.output[0] in quantized:
            continue
        scales = [_scale(producers.get(name), constants) for name in node.input[:2]]
        bias = constants.get(node.input[2])
        if bias is None or scales[0] is None or scales[1] is None:
            continue
        step = (scales[0] * scales[1]).astype(np.float32)
        codes = np.rint(bias.astype(np.float64) / step)
        if np.abs(codes).max(initial=0) < 2**31:
            added.append((node, _dequantized_bias(model, node, codes.astype(np.int32), step)))
    for node, dequantize in added:
        node.input[2] = dequantize.output[0]
        model.graph.node.insert(list(model.graph.node).index(node), dequantize)


def drop_unused(model: ModelProto) -> None:
    """Remove nodes and constants that nothing reads."""
    read = {output.name for output in model.graph.output}
    for node in reversed(list(model.graph.node)):  # readers stand behind what they read
        if read & set(node.output):
            read.update(node.input)
        else:
            model.graph.node.remove(node)
    kept = [t for t in model.graph.initializer if t.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def drop_traces(model: ModelProto) -> None:
    """Remove what the exporter noted of the source: paths and lines of this machine's files."""
    graph = model.graph
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del item.metadata_props[:]
        item.doc_string = ""
    del graph.metadata_props[:]
    del model.functions[:]


def describe(model: ModelProto, metadata: Mapping[str, str]) -> None:
    """Write `metadata` into the file's properties."""
    model.producer_name = "kdeploy"
    helper.set_model_props(model, dict(sorted(metadata.items())))


def _dequantized_bias(
    model: ModelProto, node: NodeProto, codes: NDArray[np.int32], step: NDArray[np.float32]
) -> NodeProto:
    names = [f"{node.input[2]}_{part}" for part in ("codes", "step", "dequantized")]
    step = np.broadcast_to(step, codes.shape)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value), name)
        for value, name in zip((codes, step), names[:2], strict=True)
    )
    return helper.make_node("DequantizeLinear", names[:2], names[2:], name=names[2], axis=0)


def _scale(
    producer: NodeProto | None, constants: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float32] | None:
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    return constants.get(producer.input[1])


def _constants(model: ModelProto) -> dict[str, NDArray[np.float32]]:
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _num_dims(model: ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model)
    values: Iterable[onnx.ValueInfoProto] = (
        *inferred.graph.input,
        *inferred.graph.value_info,
        *inferred.graph.output,
    )
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values}


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)
