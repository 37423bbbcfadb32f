"""Which weights of an ONNX file are 2:4 sparse, along the channels that a product sums.

Of every four input channels in a row at most two weights are not zero; a convolution's groups of
four lie along its input channels, at each kernel position. What is 2:4 could run in a sparse
kernel of a GPU; no runtime for processors has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weight = NDArray[Any]


def is_two_four(weight: Weight) -> bool:
    """Tell whether a weight (outputs, inputs, ...) has the pattern along its inputs."""
    if weight.ndim < 2 or not weight.size or weight.shape[1] % 4:
        return False
    fours = np.moveaxis(weight, 1, -1).reshape(-1, 4)
    return bool((np.count_nonzero(fours, axis=1) <= 2).all())


def num_two_four(weights: Iterable[Weight]) -> int:
    """Return how many weights have the pattern."""
    return sum(is_two_four(weight) for weight in weights)


def num_two_four_of_file(path: Path) -> int:
    """Return how many convolutions and products of an ONNX file have 2:4 weights."""
    import onnx

    return num_two_four(_weights(onnx.load(path, load_external_data=False).graph, path.parent))


def _weights(graph: Any, folder: Path) -> Iterable[Weight]:
    """Yield the constant weight of each dense operator as (outputs, inputs, ...)."""
    initializers = {i.name: i for i in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2:
            continue
        facts = {a.name: a.i for a in node.attribute}
        weight = _constant(node.input[1], initializers, producers, folder)
        if weight is None or weight.ndim < 2 or facts.get("group", 1) != 1:
            continue
        is_outputs_first = node.op_type == "Conv" or facts.get("transB", 0) == 1
        yield weight if is_outputs_first else weight.swapaxes(-1, -2)


def _constant(name: str, initializers: Any, producers: Any, folder: Path) -> Weight | None:
    """Return a constant as it is multiplied, up to a factor that keeps its zeros."""
    from onnx import numpy_helper

    if name in initializers:
        return np.asarray(numpy_helper.to_array(initializers[name], base_dir=str(folder)))
    node = producers.get(name)
    if node is None or node.op_type not in ("DequantizeLinear", "QuantizeLinear", "Transpose"):
        return None
    value = _constant(node.input[0], initializers, producers, folder)
    # Before it is rounded: small weights round to zeros that nobody pruned.
    if value is None or node.op_type == "QuantizeLinear":
        return value
    if node.op_type == "Transpose":
        order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        return value.transpose(order)
    zero_point = _constant((*node.input, "", "")[2], initializers, producers, folder)
    # One per channel is 0 by all tools; one for all codes may be any.
    if zero_point is None or zero_point.size != 1:
        return value
    return np.asarray(value.astype(np.int32) - zero_point.astype(np.int32))
