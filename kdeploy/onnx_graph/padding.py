"""Let convolutions pad for themselves: a Pad before one is an attribute of it, and has no kernel.

Code that pads as TensorFlow does, unevenly, writes a Pad of its own, for PyTorch's convolutions
pad both ends alike; ONNX's do not have to. In an INT8 file the Pad stands between two quantizers,
each pair a pass over the tensor: EfficientNet-Lite0 was half as fast for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

Constants = Mapping[str, NDArray[Any]]


def pad_inside(model: ModelProto) -> None:
    """Move each Pad with zeros, quantized alike before and after, into the convolutions after it.

    Zero is a code of every format, so the numbers stay. The Pad and its quantizers are left
    without readers.
    """
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    for pad in [node for node in model.graph.node if node.op_type == "Pad"]:
        sides = _sides(pad, constants)
        read = _unquantized(pad, model, producers, constants)
        readers = _readers(model, read)
        if sides is None or read in {o.name for o in model.graph.output} or not readers:
            continue
        if all(n.op_type == "Conv" and n.input[0] == read and _is_padded(n) for n in readers):
            for convolution in readers:
                convolution.input[0] = pad.input[0]
                _add(convolution, sides)


def _sides(pad: NodeProto, constants: Constants) -> list[int] | None:
    """Return what is padded at the start of each position, then at its end; None: not so simple."""
    mode = next((a.s for a in pad.attribute if a.name == "mode"), b"constant")
    inputs = [*pad.input, "", ""]
    amounts, value = constants.get(inputs[1]), constants.get(inputs[2])
    is_zero = not inputs[2] or (value is not None and not value.any())
    if mode != b"constant" or not is_zero or amounts is None or len(inputs) > 5:
        return None
    starts, ends = np.split(amounts, 2)
    # Batch and channels come first, and no convolution pads those.
    if len(starts) < 3 or amounts.min() < 0 or (*starts[:2], *ends[:2]) != (0,) * 4:
        return None
    return [int(n) for n in (*starts[2:], *ends[2:])]


def _unquantized(
    pad: NodeProto, model: ModelProto, producers: Mapping[str, NodeProto], constants: Constants
) -> str:
    """Return the padded tensor behind the quantizers after it, where they change nothing."""
    before = producers.get(pad.input[0])
    name: str = pad.output[0]
    for kind in ("QuantizeLinear", "DequantizeLinear"):
        readers = _readers(model, name)
        if len(readers) != 1 or readers[0].op_type != kind:
            return str(pad.output[0])
        is_alike = before is not None and before.op_type == "DequantizeLinear"
        if not is_alike or not _are_equal(readers[0].input[1:], before.input[1:], constants):  # type: ignore[union-attr]
            return str(pad.output[0])
        name = readers[0].output[0]
    return name


def _are_equal(names: Sequence[str], others: Sequence[str], constants: Constants) -> bool:
    """Return whether scales and zero points are the same constants."""
    pairs = [(constants.get(a), constants.get(b)) for a, b in zip(names, others, strict=False)]
    return len(names) == len(others) and all(
        a is not None and b is not None and a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in pairs
    )


def _readers(model: ModelProto, name: str) -> list[NodeProto]:
    return [node for node in model.graph.node if name in node.input]


def _is_padded(convolution: NodeProto) -> bool:
    """Return whether the padding is written out."""
    kinds = {a.name: a.s for a in convolution.attribute}
    return bool(kinds.get("auto_pad", b"NOTSET") == b"NOTSET")


def _add(convolution: NodeProto, sides: Sequence[int]) -> None:
    own = next((list(a.ints) for a in convolution.attribute if a.name == "pads"), [0] * len(sides))
    kept = [a for a in convolution.attribute if a.name != "pads"]
    del convolution.attribute[:]
    total = [a + b for a, b in zip(own, sides, strict=True)]
    convolution.attribute.extend([*kept, helper.make_attribute("pads", total)])
