"""The quantizers of an ONNX graph, found, moved and written in other codes.

A quantizer is a QuantizeLinear on a real tensor and the DequantizeLinear behind it, with one scale
for the whole tensor. Those of weights, constants with a scale a channel, are none here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from kdeploy.onnx_graph.graph import (
    add_constant,
    bypass,
    constant,
    first,
    input_of,
    maker,
    new_node,
)

PASS_THROUGH = frozenset(
    {
        *("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split"),
        *("Concat", "Gather", "Expand", "Identity", "Pad"),
    }
)
AVERAGES = frozenset({"AveragePool", "GlobalAveragePool"})
# Operators whose results are not negative, whatever goes in.
NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """Eight bits, and the zero points of tensors that cannot be negative and of all others."""

    dtype: np.dtype[Any]
    zero_point: int
    zero_point_signed: int

    @property
    def lowest(self) -> int:
        return int(np.iinfo(self.dtype).min)


@dataclass(slots=True, kw_only=True)
class Quantizer:
    """A QuantizeLinear and what reads it."""

    quantize: ir.Node
    dequantize: list[ir.Node]
    scale: float
    zero_point: int
    dtype: np.dtype[Any]

    @property
    def value(self) -> ir.Value:
        """The real tensor."""
        return first(self.quantize)

    @property
    def tensor(self) -> str:
        """The real tensor's name."""
        return str(self.value.name)

    @property
    def results(self) -> list[ir.Value]:
        """What the codes stand for, as it is read."""
        return [value for node in self.dequantize for value in node.outputs]

    @property
    def lowest(self) -> float:
        """The lowest number that has a code."""
        return float((int(np.iinfo(self.dtype).min) - self.zero_point) * self.scale)

    @property
    def highest(self) -> float:
        return float((int(np.iinfo(self.dtype).max) - self.zero_point) * self.scale)

    @property
    def is_symmetric(self) -> bool:
        """Whether zero is the middle code."""
        return self.zero_point == (128 if self.dtype == np.uint8 else 0)

    @property
    def is_unsigned(self) -> bool:
        """Whether zero is the lowest code: the quantizer is a ReLU as well."""
        return self.zero_point == int(np.iinfo(self.dtype).min)


def quantizers(graph: ir.Graph) -> list[Quantizer]:
    """Return those of activations, each with one scale."""
    return [found for node in graph if (found := quantizer_of(node)) is not None]


def quantizer_of(node: ir.Node) -> Quantizer | None:
    """Return the quantizer that an operator begins, None for any other."""
    if node.op_type != "QuantizeLinear" or constant(first(node)) is not None:
        return None
    scale, zero = constant(input_of(node, 1)), constant(input_of(node, 2))
    if scale is None or zero is None or scale.size != 1:
        return None
    return Quantizer(
        quantize=node,
        dequantize=[n for n in node.outputs[0].consumers() if n.op_type == "DequantizeLinear"],
        scale=float(scale.item()),
        zero_point=int(zero.item()),
        dtype=zero.dtype,
    )


def write_codes(
    graph: ir.Graph, quantizer: Quantizer, scale: float, zero_point: int, dtype: np.dtype[Any]
) -> None:
    """Write a quantizer in other codes."""
    constants = _scale_and_zero(graph, quantizer.tensor, scale, zero_point, dtype)
    for node in (quantizer.quantize, *quantizer.dequantize):
        node.resize_inputs(3)
        for position, value in enumerate(constants, start=1):
            node.replace_input_with(position, value)
    quantizer.quantize.outputs[0].dtype = ir.DataType.from_numpy(dtype)


def add_quantizer(
    graph: ir.Graph, value: ir.Value, scale: float, zero_point: int, dtype: np.dtype[Any]
) -> None:
    """Put a quantizer on a tensor: all that read it then read what the codes stand for."""
    constants = _scale_and_zero(graph, str(value.name), scale, zero_point, dtype)
    uses = list(value.uses())
    quantize = new_node("QuantizeLinear", [value, *constants], f"{value.name}_codes")
    codes = quantize.outputs[0]
    dequantize = new_node("DequantizeLinear", [codes, *constants], f"{value.name}_real")
    for use in uses:
        use.node.replace_input_with(use.idx, dequantize.outputs[0])
    graph.extend([quantize, dequantize])


def remove_quantizer(graph: ir.Graph, quantizer: Quantizer) -> None:
    """Let all read the real tensor that read what the codes stand for."""
    for node in quantizer.dequantize:
        bypass(node, quantizer.value)
    graph.remove(quantizer.quantize, safe=True)


def is_never_negative(value: ir.Value | None) -> bool:
    """Return whether the operators before say that a tensor cannot be negative."""
    node = maker(value)
    if node is None or node.op_type == "Constant":
        held = constant(value)
        return held is not None and bool((held >= 0).all())
    if node.op_type in NEVER_NEGATIVE:
        return True
    if node.op_type == "Clip":
        lowest = constant(input_of(node, 1))
        return lowest is not None and bool((lowest >= 0).all())
    # Rounding to codes keeps the sign, and codes that begin at zero have none below it.
    if node.op_type == "QuantizeLinear":
        zero = constant(input_of(node, 2))
        is_lowest = zero is not None and bool((zero == np.iinfo(zero.dtype).min).all())
        return is_lowest or is_never_negative(first(node))
    if node.op_type in ("Add", "Mul", "Concat"):
        return all(is_never_negative(given) for given in node.inputs)
    if node.op_type in PASS_THROUGH | AVERAGES | {"DequantizeLinear"}:
        return is_never_negative(first(node))
    return False


def _scale_and_zero(
    graph: ir.Graph, stem: str, scale: float, zero_point: int, dtype: np.dtype[Any]
) -> tuple[ir.Value, ir.Value]:
    return (
        add_constant(graph, f"{stem}_step", np.asarray(scale, np.float32)),
        add_constant(graph, f"{stem}_zero", np.asarray(zero_point, dtype)),
    )
