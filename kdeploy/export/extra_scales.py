"""Keep the scales of tensors that TensorRT wants as floats and ONNX Runtime as integers.

A quantized model knows the range of every tensor that any profile quantizes; a file for TensorRT
has only those that TensorRT wants. The others are marked in the graph that is exported, by
quantizers of another type than its own, because no name of a tensor survives an exporter; then
they are taken out again, and their scales become a property of the file, which `encodings` reads.
"""

from __future__ import annotations

import copy

import onnx_ir as ir
import torch
from onnx import ModelProto
from torch.fx import GraphModule, Node

from kdeploy.onnx_graph.quantizers import quantizers, remove_quantizer
from kdeploy.quantization.capture import capture, finish
from kdeploy.quantization.number_format import INT8
from kdeploy.quantization.placement import place
from kdeploy.quantization.profiles import PROFILES
from kdeploy.quantization.pt2e import QuantizedModel
from kdeploy.quantization.rewrites import into_integer_operators

# No code of a file for TensorRT has this type.
MARK = torch.uint8
# Zero point, lowest and highest value, type: uint8 with its zero in the middle, as int8 has it.
_CODES = (128, 0, 255, MARK)


def marked(model: QuantizedModel) -> GraphModule:
    """Return the graph of a model for TensorRT with the further quantizers of the CPU's."""
    graph_module = copy.deepcopy(model.graph)
    nodes = {node.name: node for node in graph_module.graph.nodes}
    for name, scale in _further(model).items():
        if name in nodes and not any(user.op == "output" for user in nodes[name].users):
            _mark(graph_module, nodes[name], scale)
    return finish(graph_module)


def unmarked(program: ModelProto) -> tuple[ModelProto, dict[str, float]]:
    """Return an exported graph without the marks, and the scale of each tensor."""
    model = ir.from_proto(program)
    marks = [q for q in quantizers(model.graph) if q.dtype == "uint8"]
    scales = {quantizer.tensor: quantizer.scale for quantizer in marks}
    for quantizer in marks:
        remove_quantizer(model.graph, quantizer)
    return ir.to_proto(model), scales


def _further(model: QuantizedModel) -> dict[str, float]:
    """Return the int8 scale of each node that only the CPU's profile quantizes, by its name."""
    captured = into_integer_operators(capture(model.base, model.example))
    mine, other = (
        place(captured, PROFILES[name], float_layers=model.float_layers, ranges=model.placed_by)
        for name in ("tensorrt", "cpu")
    )
    model.check_ranges(other)
    known = {node.name for group in mine.groups for node in group.nodes}
    scales = {}
    for group in other.groups:
        ranges = [model.ranges[other.names[n]] for n in group.sources]
        # Tensors of one group share one quantizer: it has to hold them all.
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        scale, _ = INT8.scale_and_zero_point(low, high)
        scales.update({n.name: scale for n in group.nodes if n.name not in known})
    return scales


def _mark(graph_module: GraphModule, node: Node, scale: float) -> None:
    ops = torch.ops.quantized_decomposed
    with graph_module.graph.inserting_after(node):
        codes = graph_module.graph.call_function(
            ops.quantize_per_tensor.default, (node, scale, *_CODES)
        )
    with graph_module.graph.inserting_after(codes):
        real = graph_module.graph.call_function(
            ops.dequantize_per_tensor.default, (codes, scale, *_CODES)
        )
    node.replace_all_uses_with(real, delete_user_cb=lambda user: user is not codes)
