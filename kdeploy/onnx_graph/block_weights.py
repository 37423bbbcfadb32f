"""Products with weights of 4 or 8 bits in ONNX files: how many there are, and which run fast.

Only level 4 of `com.microsoft` MatMulNBits computes on integers; below it a kernel makes the real
weights first. https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from kdeploy.onnx_graph.checks import read_onnx

OPERATOR = "MatMulNBits"
FAST_LEVEL = 4


def fast_products(path: Path) -> tuple[int, int, dict[str, int]]:
    """Return the products of a file on integer codes, those that could be, and all operators."""
    graph = read_onnx(path).graph
    fast, eligible = counted(graph)
    return fast, eligible, dict(sorted(Counter(node.op_type for node in graph.node).items()))


def has_blocks(model: Any) -> bool:
    """Return whether a file has weights in blocks, by ONNX's own operator or ONNX Runtime's."""
    return any(
        node.op_type == OPERATOR or any(a.name == "block_size" and a.i for a in node.attribute)
        for node in model.graph.node
    )


def counted(graph: Any) -> tuple[int, int]:
    """Return the products on integer codes, and all with a stored weight."""
    stored = {tensor.name for tensor in graph.initializer}
    coded = [node for node in graph.node if node.op_type == OPERATOR]
    real = [
        node
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm", "FusedGemm", "FusedMatMul")
        and len(node.input) > 1
        and node.input[1] in stored
    ]
    return sum(_level(node) == FAST_LEVEL for node in coded), len(coded) + len(real)


def count_weights(path: Path) -> int:
    """Return how many numbers a file has learned; a table that several operators read is one."""
    graph = read_onnx(path).graph
    sizes = {tensor.name: _elements(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == OPERATOR:
            known = {a.name: a.i for a in node.attribute}
            sizes[node.input[1]] = known["K"] * known["N"]
            for name in node.input[2:4]:
                sizes.pop(name, None)
    return sum(sizes.values())


def _elements(dims: Any) -> int:
    total = 1
    for size in dims:
        total *= int(size)
    return total


def _level(node: Any) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "accuracy_level"), 0)
