"""Write attention as one operator of ONNX Runtime: com.microsoft's MultiHeadAttention.

As torch's exporter writes `scaled_dot_product_attention` and torch's own layers, and as models
write it out:

    query -> by heads [-> Mul] ---------------> MatMul [-> Mul] [-> Add mask] -> Softmax -> MatMul
    key   -> by heads -> transposed [-> Mul] ---^                                           ^   |
    value -> by heads ----------------------------------------------------------------------+   |
                                                                          result <- by words <--+

The factors may stand at any Mul or Div. The mask is added, or a Where puts its lowest number in
the place of what is hidden; a causal one the operator knows by itself. `by heads` is anything that
only moves numbers, and found by moving their places (`layout_tracing.py`): the fused operator reads
the tensors (batch, words, width) before all of it, and writes the one behind `by words`.

An attention stays as it is where others read its softmax or products, where its sizes are not
those of the operator, or its numbers not float32, which the operator has a kernel for.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx import ModelProto

from kdeploy.onnx_graph.attention_layout import NotFusable
from kdeploy.onnx_graph.attention_nodes import Attention, AttentionWriter
from kdeploy.onnx_graph.graph import attribute, constant, first, maker, only_reader, scalar, second
from kdeploy.onnx_graph.layout_tracing import Shapes, scaled
from kdeploy.onnx_graph.passes import drop_unused, graph_pass, run

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


def fuse_attention(program: ModelProto) -> tuple[ModelProto, Fusion]:
    """Return a float graph with its attention fused, and what became of each."""
    model = ir.from_proto(program)
    fused: list[Fusion] = []

    @graph_pass(ensures=lambda model: _not_written(model, fused[0]))
    def fuse_attention(model: ir.Model) -> None:
        fused.append(_fused(model))

    run(model, fuse_attention, drop_unused)
    return (ir.to_proto(model) if fused[0].fused else program), fused[0]


def _fused(model: ir.Model) -> Fusion:
    graph, shapes = model.graph, Shapes(model)
    order = {node: place for place, node in enumerate(graph)}
    softmaxes = [node for node in graph if node.op_type == "Softmax"]
    found = [(s, p) for s in softmaxes if (p := _product(s)) is not None]
    writer = AttentionWriter(graph, shapes)
    left = []
    # What several share is written before the first of them.
    for softmax, product in sorted(found, key=lambda pair: order[pair[1]]):
        try:
            _check(model)
            writer.write(_attention(shapes, softmax, product), before=product)
        except NotFusable as reason:
            left.append(str(reason))
    return Fusion(found=len(found), left=tuple(left))


def _not_written(model: ir.Model, fusion: Fusion) -> str:
    written = sum(node.op_type == "MultiHeadAttention" for node in model.graph)
    return "" if written >= fusion.fused else f"{written} of {fusion.fused} attentions are written"


def _check(model: ir.Model) -> None:
    # Within the loop, so that the reason is counted for each attention.
    opset = model.graph.opset_imports.get("", LOWEST_OPSET)
    if opset < LOWEST_OPSET:
        raise NotFusable(f"opset {opset}: the operators around it need {LOWEST_OPSET}")
    kinds = {a.type for node in model.graph for a in node.attributes.values()}
    if kinds & {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
        raise NotFusable("the graph has branches or loops, which may read what is within")


def _product(softmax: ir.Node) -> ir.Node | None:
    """Return the product of a softmax and values: what makes it an attention."""
    weights = softmax.outputs[0]
    guard = _guard(weights)
    value = weights if guard is None else guard.outputs[0]
    products = (n for n in value.consumers() if n.op_type == "MatMul")
    return next((n for n in products if n.inputs[0] is value), None)


def _guard(weights: ir.Value) -> ir.Node | None:
    """Return the Where that puts 0 in the place of what is not a number."""
    for node in weights.consumers():
        is_guard = node.op_type == "Where" and maker(first(node), "IsNaN") is not None
        if is_guard and node.inputs[2] is weights and scalar(node.inputs[1]) == 0:
            return node
    return None


def _attention(shapes: Shapes, softmax: ir.Node, product: ir.Node) -> Attention:
    """Return the parts of an attention.

    Raises:
        NotFusable: it is another computation than the operator's, or others read what is within.
    """
    value = first(softmax)
    weights = softmax.outputs[0]
    if attribute(softmax, "axis", -1) not in {-1, len(shapes.of(value) or ()) - 1}:
        raise NotFusable("its softmax runs over another axis than the keys")
    within = [first(product), weights]
    masks: list[ir.Value] = []
    hidden: list[tuple[ir.Value, float, bool]] = []
    while (scores := _scores(value)) is None:
        within.append(value)
        value = _unmasked(value.producer(), masks, hidden)
    node, scale, between = scores
    guard = _guard(weights)
    # Where all keys are at -inf, softmax is NaN and the guard writes 0; the operator would not.
    if guard is not None and not all(map(_is_finite, masks)):
        raise NotFusable("it writes 0 where all is hidden, by a mask that may be infinite")
    if guard is not None:
        within.remove(weights)  # read by the guard and its test, and by nothing else
        if len(weights.consumers()) > 2 or weights.is_graph_output():
            raise NotFusable("its softmax or its scores are read elsewhere, too")
    if any(only_reader(one) is None for one in (*within, *between)):
        raise NotFusable("its softmax or its scores are read elsewhere, too")
    plain = tuple(mask for mask in masks if not _is_causal(shapes, mask))
    return Attention(
        query=first(node),
        key=second(node),
        value=second(product),
        result=product.outputs[0],
        scale=scale,
        masks=plain,
        is_causal=len(plain) < len(masks),
        hidden=tuple(hidden),
    )


def _scores(value: ir.Value) -> tuple[ir.Node, float, list[ir.Value]] | None:
    """Return the product that makes the scores, how they are scaled, and the tensors between."""
    scale, between = 1.0, [value]
    node = value.producer()
    while (by_constant := scaled(node)) is not None:
        between.append(by_constant[0])
        scale *= by_constant[1]
        node = by_constant[0].producer()
    return (node, scale, between) if node is not None and node.op_type == "MatMul" else None


def _unmasked(
    node: ir.Node | None,
    masks: list[ir.Value],
    hidden: list[tuple[ir.Value, float, bool]],
) -> ir.Value:
    """Return the scores before a mask, and note the mask."""
    given = [] if node is None else [value for value in node.inputs if value is not None]
    if node is not None and node.op_type == "Add":
        for scores, mask in (given, given[::-1]):
            if _leads_to_scores(scores):
                masks.append(mask)
                return scores
    if node is not None and node.op_type == "Where":
        condition, *sides = given
        # Where(hidden, lowest, scores) and Where(seen, scores, lowest) say the same.
        for is_where_true, (lowest, scores) in ((True, sides), (False, sides[::-1])):
            number = scalar(lowest)
            if number is not None and number <= LOWEST:
                hidden.append((condition, number, is_where_true))
                return scores
    what = "an input" if node is None else f"`{node.op_type}`"
    raise NotFusable(f"its softmax reads {what}, which is neither a product nor a mask of one")


def _leads_to_scores(value: ir.Value) -> bool:
    """Say whether a tensor is a product, or one that is masked once more."""
    node = value.producer()
    if node is None or _scores(value) is not None:
        return node is not None
    return node.op_type in {"Add", "Where"} and any(
        _leads_to_scores(source) for source in node.inputs if source is not None
    )


def _is_finite(mask: ir.Value) -> bool:
    """Say whether a mask is a choice between two finite numbers, or a constant of such."""
    node = mask.producer()
    while node is not None and node.op_type in _BROADCAST:
        mask = first(node)
        node = mask.producer()
    held = constant(mask)
    if node is None or held is not None:
        return held is not None and bool(np.isfinite(held).all())
    numbers = [scalar(value) for value in node.inputs[1:]] if node.op_type == "Where" else [None]
    return all(number is not None and np.isfinite(number) for number in numbers)


def _is_causal(shapes: Shapes, mask: ir.Value) -> bool:
    """Say whether a mask hides from each word those behind it, as torch's exporter writes it.

    Where(Equal(Trilu(Expand(1, (queries, keys))), 0), lowest, 0)
    """
    shape = shapes.size(mask)
    nodes: list[ir.Node] = []
    value = mask
    for kind in ("Where", "Equal", "Trilu", "Expand"):
        node = maker(value, kind)
        if node is None:
            return False
        nodes.append(node)
        value = first(node)
    where, equal, triangle, _ = nodes
    hidden, seen, zero = (scalar(v) for v in (*where.inputs[1:], equal.inputs[1]))
    is_lower = not attribute(triangle, "upper", 1) and len(triangle.inputs) == 1
    is_square = shape is not None and len(shape) == 2 and shape[0] == shape[1] > 1
    hides = hidden is not None and hidden <= LOWEST and seen == zero == 0
    return is_square and is_lower and hides and scalar(value) not in {None, 0}
