"""Keep float layers of an INT8 file float where a runtime would quantize them by itself.

ONNX Runtime rounds the weight of a Conv or Gemm to INT8, with one scale for all channels, when its
input is dequantized and its output quantized, with nothing but a Relu or Clip between
(`WeightBiasQuantization`, onnxruntime 1.31). A layer that was left float for its accuracy would
lose it there, silently.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from kdeploy.onnx_graph.graph import input_of, maker, new_node
from kdeploy.onnx_graph.passes import graph_pass

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
PASSED = ("Relu", "Clip")


def _unguarded(model: ir.Model) -> str:
    left = [node for node in model.graph if _is_between_integers(node)]
    return ", ".join(f"{node.name} is float between integers" for node in left)


@graph_pass(ensures=_unguarded)
def guard_float_layers(model: ir.Model) -> None:
    """Put a LeakyRelu of slope 1 behind each float layer between integers; it changes nothing.

    ONNX Runtime fuses it into the layer, so that it costs nothing either.
    """
    for node in [node for node in model.graph if _is_between_integers(node)]:
        value = node.outputs[0]
        name = str(value.name)
        guard = new_node("LeakyRelu", [value], name, name=f"{node.name}_float", alpha=1.0)
        guard.outputs[0].type, guard.outputs[0].shape = value.type, value.shape
        readers = [use for use in value.uses() if use.node is not guard]
        for use in readers:
            use.node.replace_input_with(use.idx, guard.outputs[0])
        value.name = f"{name}_float"
        model.graph.insert_after(node, guard)


def _is_between_integers(node: ir.Node) -> bool:
    if node.op_type not in LAYERS:
        return False
    is_dequantized = [
        maker(input_of(node, position), "DequantizeLinear") is not None for position in (0, 1)
    ]
    return is_dequantized == [True, False] and "QuantizeLinear" in _readers(node.outputs[0])


def _readers(value: ir.Value) -> Iterator[str]:
    """Yield the operators that read a tensor, past activations that codes may replace."""
    for node in value.consumers():
        yield node.op_type
        if node.op_type in PASSED:
            yield from _readers(node.outputs[0])
