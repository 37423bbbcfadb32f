"""Write attention as one operator of ONNX Runtime: com.microsoft's MultiHeadAttention.

As torch's exporter writes `scaled_dot_product_attention` and torch's own layers, and as models
write it out:

    query -> by heads [-> Mul] ---------------> MatMul [-> Mul] [-> Add mask] -> Softmax -> MatMul
    key   -> by heads -> transposed [-> Mul] ---^                                           ^   |
    value -> by heads ----------------------------------------------------------------------+   |
                                                                          result <- by words <--+

The factors may stand at any Mul or Div. The mask is added, or a Where puts its lowest number in
the place of what is hidden; a causal one the operator knows by itself. `by heads` is anything that
only moves numbers, and found by moving their places (`onnx_moves.py`): the fused operator reads
the tensors (batch, words, width) before all of it, and writes the one behind `by words`.

An attention stays as it is where others read its softmax or products, where its sizes are not
those of the operator, or its numbers not float32, which the operator has a kernel for.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto

from kdeploy.onnx_graph.attention_layout import NotFusable
from kdeploy.onnx_graph.attention_nodes import Attention, AttentionWriter
from kdeploy.onnx_graph.checks import opset_of
from kdeploy.onnx_graph.layout_tracing import Graph, attribute
from kdeploy.onnx_graph.rewrites import drop_unused

# Scores vanish beside it in float32, so that to add it is to replace them.
LOWEST = -1e30
LOWEST_OPSET = 15  # Shape with `start` and `end`
_BROADCAST = frozenset({"Expand", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """How much attention of a graph was fused, and why the rest was not."""

    found: int
    left: tuple[str, ...]
    """A reason for each that stays."""

    @property
    def fused(self) -> int:
        return self.found - len(self.left)


def fuse_attention(model: ModelProto) -> Fusion:
    """Fuse the attention of a float graph, in place."""
    graph = Graph(model)
    order = {node.output[0]: place for place, node in enumerate(model.graph.node)}
    softmaxes = (node for node in model.graph.node if node.op_type == "Softmax")
    found = [(s, p) for s in softmaxes if (p := _product(graph, s)) is not None]
    writer = AttentionWriter(graph)
    left = []
    # What several share is written before the first of them.
    for softmax, product in sorted(found, key=lambda pair: order[pair[1].output[0]]):
        try:
            _check(model)
            writer.write(_attention(graph, softmax, product), before=product)
        except NotFusable as reason:
            left.append(str(reason))
    fusion = Fusion(found=len(found), left=tuple(left))
    if fusion.fused:
        writer.finish(model)
        drop_unused(model)
    return fusion


def _check(model: ModelProto) -> None:
    if opset_of(model) < LOWEST_OPSET:
        raise NotFusable(f"opset {opset_of(model)}: the operators around it need {LOWEST_OPSET}")
    if any(a.HasField("g") or a.graphs for node in model.graph.node for a in node.attribute):
        raise NotFusable("the graph has branches or loops, which may read what is within")


def _product(graph: Graph, softmax: NodeProto) -> NodeProto | None:
    """Return the product of a softmax and values: what makes it an attention."""
    weights = softmax.output[0]
    guard = _guard(graph, weights)
    name = weights if guard is None else guard.output[0]
    products = (n for n in graph.readers.get(name, []) if n.op_type == "MatMul")
    return next((n for n in products if n.input[0] == name), None)


def _guard(graph: Graph, weights: str) -> NodeProto | None:
    """Return the Where that puts 0 in the place of what is not a number."""
    for node in graph.readers.get(weights, []):
        test = graph.producers.get(node.input[0])
        is_guard = node.op_type == "Where" and test is not None and test.op_type == "IsNaN"
        if is_guard and node.input[2] == weights and graph.scalar(node.input[1]) == 0:
            return node
    return None


def _attention(graph: Graph, softmax: NodeProto, product: NodeProto) -> Attention:
    """Return the parts of an attention.

    Raises:
        NotFusable: it is another computation than the operator's, or others read what is within.
    """
    name = softmax.input[0]
    rank = len(graph.shapes.get(name, ()))
    if attribute(softmax, "axis", -1) not in {-1, rank - 1}:
        raise NotFusable("its softmax runs over another axis than the keys")
    within = [product.input[0], softmax.output[0]]
    masks: list[str] = []
    hidden: list[tuple[str, float, bool]] = []
    while (scores := _scores(graph, name)) is None:
        within.append(name)
        name = _unmasked(graph, graph.producers.get(name), masks, hidden)
    node, scale, between = scores
    guard = _guard(graph, softmax.output[0])
    if guard is not None and not all(_is_finite(graph, mask) for mask in masks):
        raise NotFusable("it writes 0 where all is hidden, by a mask that may be infinite")
    if guard is not None:
        within.remove(softmax.output[0])  # read by the guard and its test, and by nothing else
        if len(graph.readers[softmax.output[0]]) > 2 or softmax.output[0] in graph.outputs:
            raise NotFusable("its softmax or its scores are read elsewhere, too")
    if any(graph.only_reader(name) is None for name in (*within, *between)):
        raise NotFusable("its softmax or its scores are read elsewhere, too")
    plain = tuple(mask for mask in masks if not _is_causal(graph, mask))
    return Attention(
        query=node.input[0],
        key=node.input[1],
        value=product.input[1],
        result=product.output[0],
        scale=scale,
        masks=plain,
        is_causal=len(plain) < len(masks),
        hidden=tuple(hidden),
    )


def _scores(graph: Graph, name: str) -> tuple[NodeProto, float, list[str]] | None:
    """Return the product that makes the scores, how they are scaled, and the tensors between."""
    scale, between = 1.0, [name]
    node = graph.producers.get(name)
    while (scaled := graph.scaled(node)) is not None:
        between.append(scaled[0])
        scale *= scaled[1]
        node = graph.producers.get(scaled[0])
    return (node, scale, between) if node is not None and node.op_type == "MatMul" else None


def _unmasked(
    graph: Graph,
    node: NodeProto | None,
    masks: list[str],
    hidden: list[tuple[str, float, bool]],
) -> str:
    """Return the scores before a mask, and note the mask."""
    if node is not None and node.op_type == "Add":
        for scores, mask in (node.input, node.input[::-1]):
            if _leads_to_scores(graph, scores):
                masks.append(mask)
                return str(scores)
    if node is not None and node.op_type == "Where":
        condition, *sides = node.input
        for is_where_true, (lowest, scores) in ((True, sides), (False, sides[::-1])):
            number = graph.scalar(lowest)
            if number is not None and number <= LOWEST:
                hidden.append((condition, number, is_where_true))
                return str(scores)
    what = "an input" if node is None else f"`{node.op_type}`"
    raise NotFusable(f"its softmax reads {what}, which is neither a product nor a mask of one")


def _leads_to_scores(graph: Graph, name: str) -> bool:
    """Say whether a tensor is a product, or one that is masked once more."""
    node = graph.producers.get(name)
    if node is None or _scores(graph, name) is not None:
        return node is not None
    return node.op_type in {"Add", "Where"} and any(
        _leads_to_scores(graph, source) for source in node.input
    )


def _is_finite(graph: Graph, mask: str) -> bool:
    """Say whether a mask is a choice between two finite numbers, or a constant of such."""
    node = graph.producers.get(mask)
    while node is not None and node.op_type in _BROADCAST:
        mask = node.input[0]
        node = graph.producers.get(mask)
    if node is None or mask in graph.constants:
        return mask in graph.constants and bool(np.isfinite(graph.constants[mask]).all())
    numbers = [graph.scalar(name) for name in node.input[1:]] if node.op_type == "Where" else [None]
    return all(number is not None and np.isfinite(number) for number in numbers)


def _is_causal(graph: Graph, mask: str) -> bool:
    """Say whether a mask hides from each word those behind it, as torch's exporter writes it.

    Where(Equal(Trilu(Expand(1, (queries, keys))), 0), lowest, 0)
    """
    shape = graph.size(mask)
    nodes: list[NodeProto] = []
    name = mask
    for kind in ("Where", "Equal", "Trilu", "Expand"):
        node = graph.producers.get(name)
        if node is None or node.op_type != kind:
            return False
        nodes.append(node)
        name = node.input[0]
    where, equal, triangle, _ = nodes
    hidden, seen, zero = (graph.scalar(n) for n in (*where.input[1:], equal.input[1]))
    is_lower = not attribute(triangle, "upper", 1) and len(triangle.input) == 1
    is_square = shape is not None and len(shape) == 2 and shape[0] == shape[1] > 1
    hides = hidden is not None and hidden <= LOWEST and seen == zero == 0
    return is_square and is_lower and hides and graph.scalar(name) not in {None, 0}
