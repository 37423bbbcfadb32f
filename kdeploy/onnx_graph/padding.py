"""Let convolutions pad for themselves: a Pad before one is an attribute of it, and has no kernel.

Code that pads as TensorFlow does, unevenly, writes a Pad of its own, for PyTorch's convolutions
pad both ends alike; ONNX's do not have to. In an INT8 file the Pad stands between two quantizers,
each pair a pass over the tensor: EfficientNet-Lite0 was half as fast for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from kdeploy.onnx_graph.graph import attribute, constant, first, input_of, maker
from kdeploy.onnx_graph.passes import graph_pass


@graph_pass()
def pad_inside(model: ir.Model) -> None:
    """Move each Pad with zeros, quantized alike before and after, into the convolutions after it.

    Zero is a code of every format, so the numbers stay. The Pad and its quantizers are left
    without readers.
    """
    for pad in [node for node in model.graph if node.op_type == "Pad"]:
        sides = _sides(pad)
        read = _unquantized(pad)
        readers = read.consumers()
        if sides is None or read.is_graph_output() or not readers:
            continue
        if all(n.op_type == "Conv" and n.inputs[0] is read and _is_padded(n) for n in readers):
            for convolution in readers:
                convolution.replace_input_with(0, pad.inputs[0])
                _add(convolution, sides)


def _sides(pad: ir.Node) -> list[int] | None:
    """Return what is padded at the start of each position, then at its end; None: not so simple."""
    amounts, value = constant(input_of(pad, 1)), constant(input_of(pad, 2))
    is_zero = input_of(pad, 2) is None or (value is not None and not value.any())
    has_axes = input_of(pad, 3) is not None
    if attribute(pad, "mode", "constant") != "constant" or not is_zero or amounts is None:
        return None
    starts, ends = np.split(amounts, 2)
    # Batch and channels come first, and no convolution pads those.
    if has_axes or len(starts) < 3 or amounts.min() < 0 or (*starts[:2], *ends[:2]) != (0,) * 4:
        return None
    return [int(n) for n in (*starts[2:], *ends[2:])]


def _unquantized(pad: ir.Node) -> ir.Value:
    """Return the padded tensor behind the quantizers after it, where they change nothing."""
    before = maker(first(pad), "DequantizeLinear")
    value = pad.outputs[0]
    for kind in ("QuantizeLinear", "DequantizeLinear"):
        readers = value.consumers()
        if before is None or len(readers) != 1 or readers[0].op_type != kind:
            return pad.outputs[0]
        if not _are_equal(readers[0].inputs[1:], before.inputs[1:]):
            return pad.outputs[0]
        value = readers[0].outputs[0]
    return value


def _are_equal(values: Sequence[ir.Value | None], others: Sequence[ir.Value | None]) -> bool:
    """Return whether scales and zero points are the same constants."""
    pairs = [(constant(a), constant(b)) for a, b in zip(values, others, strict=False)]
    return len(values) == len(others) and all(
        a is not None and b is not None and a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in pairs
    )


def _is_padded(convolution: ir.Node) -> bool:
    """Return whether the padding is written out."""
    return bool(attribute(convolution, "auto_pad", "NOTSET") == "NOTSET")


def _add(convolution: ir.Node, sides: Sequence[int]) -> None:
    own = attribute(convolution, "pads", [0] * len(sides))
    total = [a + b for a, b in zip(own, sides, strict=True)]  # both pad with zeros, so they add up
    convolution.attributes.pop("pads", None)
    convolution.attributes.add(ir.AttrInt64s("pads", total))
