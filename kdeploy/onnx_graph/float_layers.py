"""Keep float layers of an INT8 file float where a runtime would quantize them by itself.

ONNX Runtime rounds the weight of a Conv or Gemm to INT8, with one scale for all channels, when its
input is dequantized and its output quantized, with nothing but a Relu or Clip between
(`WeightBiasQuantization`, onnxruntime 1.31). A layer that was left float for its accuracy would
lose it there, silently.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import ModelProto, NodeProto, helper

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
PASSED = ("Relu", "Clip")


def guard_float_layers(model: ModelProto) -> None:
    """Put a LeakyRelu of slope 1 behind each float layer between integers; it changes nothing.

    ONNX Runtime fuses it into the layer, so that it costs nothing either.
    """
    guarded = [node for node in model.graph.node if _is_between_integers(model, node)]
    for node in guarded:
        result = node.output[0]
        node.output[0] = f"{result}_float"
        guard = helper.make_node(
            "LeakyRelu", node.output, [result], name=f"{node.name}_float", alpha=1.0
        )
        model.graph.node.insert(list(model.graph.node).index(node) + 1, guard)


def _is_between_integers(model: ModelProto, node: NodeProto) -> bool:
    if node.op_type not in LAYERS:
        return False
    producers = {output: n.op_type for n in model.graph.node for output in n.output}
    is_dequantized = [producers.get(name) == "DequantizeLinear" for name in node.input[:2]]
    return is_dequantized == [True, False] and "QuantizeLinear" in _readers(model, node.output[0])


def _readers(model: ModelProto, name: str) -> Iterator[str]:
    """Yield the operators that read a tensor, past activations that codes may replace."""
    for node in model.graph.node:
        if name in node.input:
            yield node.op_type
            if node.op_type in PASSED:
                yield from _readers(model, node.output[0])
