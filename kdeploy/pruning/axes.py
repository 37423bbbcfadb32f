"""Which dimension of each tensor the channels are, followed through every operation.

A convolution makes channels at dimension 1, a linear layer at the last one. From there each
operation says, by what autograd recorded of it, where a dimension goes: a transposition moves it, a
reshape keeps it where size and place in memory are the same. Sizes that happen to be equal decide
nothing. What readers expect flows back, to parameters too that belong to no layer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch_pruning.ops import OPTYPE

from kdeploy.pruning.operations import dimension, operation, shape_made
from kdeploy.pruning.shuffles import Shuffle

Pairs = frozenset[tuple[int, int]]
"""Where dimensions of an input are in the result; a flattened one stands with several."""

REDUCTIONS = ("Amax", "Amin", "Max", "Mean", "Min", "Std", "Sum", "Var")
# What has no channels of its own: they must be seen where they pass.
PASSING = (
    *(OPTYPE.ELEMENTWISE, OPTYPE.RESHAPE, OPTYPE.SLICE, OPTYPE.SPLIT, OPTYPE.CONCAT),
    *(OPTYPE.EXPAND, OPTYPE.PARAMETER, OPTYPE.LN),
)
_STARTING = (OPTYPE.PARAMETER, OPTYPE.LN)
_SECOND = (OPTYPE.CONV, OPTYPE.DEPTHWISE_CONV, OPTYPE.BN, OPTYPE.IN, OPTYPE.GN, OPTYPE.PRELU)
_LAST = (OPTYPE.LINEAR, OPTYPE.EMBED)
_WITH_WEIGHTS = (OPTYPE.CONV, OPTYPE.LINEAR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Where the channels are."""

    made: Mapping[Any, int]
    """The dimension in what a node makes; nothing where there is none, or none that is known."""
    pairs: Mapping[tuple[Any, Any], Pairs]
    """Of each node and one that reads it."""
    flow: frozenset[Any]
    """Nodes that compute on activations, and not on the weights of a layer alone."""
    inside: frozenset[Any]
    """Nodes between which channels are mixed with groups or items, and come out as they went in."""

    def given(self, node: Any) -> int | None:
        """Return the dimension in the first input that has one."""
        known = (self.made.get(source) for source in node.inputs)
        return next((axis for axis in known if axis is not None), None)

    def is_torn(self, source: Any, reader: Any) -> bool:
        """Tell whether a reader takes another dimension for the channels than its source."""
        one, other = self.made.get(source), self.made.get(reader)
        pairs = self.pairs.get((source, reader))
        return pairs is not None and None not in (one, other) and (one, other) not in pairs


def find_axes(
    nodes: Sequence[Any], sources: Collection[Any], shuffles: Sequence[Shuffle] = ()
) -> Axes:
    """Return where the channels are in the graph of a model.

    Args:
        nodes: Of torch-pruning's graph.
        sources: Those of the model's inputs.
        shuffles: In it; they hand channels on that no dimension is seen of inside.
    """
    flow = _flow(nodes, sources)
    steps = [shuffle.steps for shuffle in shuffles if shuffle.steps]
    steps += [found for node in nodes if (found := _norm_steps(node, flow))]
    inside = frozenset(node for found in steps for node in found[:-1])
    pairs = {
        (source, node): dimension_pairs(node, source)
        for node in nodes
        for source in dict.fromkeys(node.inputs)
        if source in flow and not {source, node} & inside
    }
    # Through a shuffle or an instance norm channels leave at the dimension where they entered.
    for first, *_, last in steps:
        pairs |= {(source, last): frozenset({(1, 1)}) for source in first.inputs}
    made = {node: axis for node in nodes if (axis := _stated(node)) is not None and node in flow}
    _spread(made, pairs)
    return Axes(made=made, pairs=pairs, flow=flow, inside=inside)


def dimension_pairs(node: Any, source: Any) -> Pairs:
    """Return which dimensions of an input are which of the result."""
    given, made = shape_made(source), shape_made(node)
    if node.type in _WITH_WEIGHTS or operation(node) in ("Addmm", "Mm"):
        stated = _stated(node)
        axis = len(given) - 1 if stated is None or node.type != OPTYPE.CONV else 1
        return frozenset({(axis, len(made) - 1 if stated is None else stated)})
    if node.type == OPTYPE.RESHAPE or operation(node) in ("View", "UnsafeView"):
        return reshaped(given, made)
    match operation(node):
        case "Permute":
            order = [dimension(d, given) for d in node.grad_fn._saved_dims]
            # permute(2, 0, 1): dimension `after` of the result is dimension `order[after]` of the
            # input.
            return frozenset((before, after) for after, before in enumerate(order))
        case "Transpose" | "T":
            one, other = _turned(node, given)
            places = {one: other, other: one}
            return frozenset((d, places.get(d, d)) for d in range(len(given)))
        case "Unsqueeze":
            new = dimension(node.grad_fn._saved_dim, made)
            return frozenset((d, d + (d >= new)) for d in range(len(given)))
    gone = dimensions_gone(node, given)
    if len(made) == len(given):
        return frozenset((d, d) for d in range(len(given)) if d not in gone)
    if gone:
        left = [d for d in range(len(given)) if d not in gone]
        return frozenset(zip(left, range(len(made)), strict=False))
    # Broadcasting aligns at the end.
    return frozenset(
        (d, d + len(made) - len(given)) for d in range(len(given)) if d + len(made) >= len(given)
    )


def dimensions_gone(node: Any, given: Sequence[int]) -> set[int]:
    """Return the dimensions that a node sums up, squeezes or takes one place of."""
    name = operation(node)
    if name not in (*REDUCTIONS, "Squeeze", "Select") or not given:
        return set()
    dims = getattr(node.grad_fn, "_saved_dim", None)
    listed = dims if isinstance(dims, tuple | list) else () if dims is None else (dims,)
    # A reduction that names no dimension sums up all of them.
    found = {dimension(d, given) for d in listed} or set(range(len(given)))
    return {d for d in found if given[d] == 1} if name == "Squeeze" else found


def reshaped(given: Sequence[int], made: Sequence[int]) -> Pairs:
    """Return which dimensions a reshape keeps, and those that it flattens behind the batch."""
    # A dimension stays one when as many numbers stand before it and it is as long: row-major order.
    places = {(prod(made[:j]), size): j for j, size in enumerate(made) if size > 1}
    pairs = {
        (i, places[prod(given[:i]), size])
        for i, size in enumerate(given)
        if size > 1 and (prod(given[:i]), size) in places
    }
    # Of one channel only the place says which it is.
    pairs |= {(i, i) for i in range(len(given)) if tuple(given[: i + 1]) == tuple(made[: i + 1])}
    if is_flattening(given, made):
        wide = range(1, max(len(given), len(made)))
        pairs |= {(i, 1) if len(made) == 2 else (1, i) for i in wide}
    return frozenset(pairs)


def is_flattening(given: Sequence[int], made: Sequence[int]) -> bool:
    """Tell whether one shape is (batch, all the rest), and the other has more dimensions."""
    return given[:1] == made[:1] and 2 in (len(given), len(made)) and len(given) != len(made)


def _flow(nodes: Sequence[Any], sources: Collection[Any]) -> frozenset[Any]:
    found = {n for n in nodes if n in sources or n.type not in PASSING or n.type in _STARTING}
    waiting = deque(found)
    while waiting:
        fresh = [node for node in waiting.popleft().outputs if node not in found]
        found.update(fresh)
        waiting.extend(fresh)
    return frozenset(found)


def _norm_steps(node: Any, flow: frozenset[Any]) -> tuple[Any, ...]:
    """Return what torch makes of an instance norm: a batch norm of (1, items x channels, ...)."""
    norms = [n for n in node.inputs if node.type == OPTYPE.IN and n.type == OPTYPE.ELEMENTWISE]
    if node.type != OPTYPE.IN or operation(node) not in ("View", "UnsafeView") or len(norms) != 1:
        return ()
    [norm] = norms
    tables = [n for n in norm.inputs if n.type == OPTYPE.RESHAPE and n in flow]
    weights = [n for n in norm.inputs if n not in flow]
    return (*tables, *weights, norm, node) if len(tables) == 1 else ()


def _stated(node: Any) -> int | None:
    """Return where a node makes its channels, whatever it reads."""
    count = len(shape_made(node))
    if node.type == OPTYPE.PRELU and node.module.num_parameters == 1:
        return None
    if node.type in _SECOND or operation(node) == "NativeBatchNorm":
        return 1 if count > 1 else None
    is_last = node.type in _LAST or operation(node) == "NativeLayerNorm"
    return count - 1 if is_last and count else None


def _turned(node: Any, given: Sequence[int]) -> tuple[int, int]:
    if operation(node) == "T":
        return 0, len(given) - 1
    saved = node.grad_fn._saved_dim0, node.grad_fn._saved_dim1
    one, other = (dimension(d, given) for d in saved)
    return one, other


def _spread(made: dict[Any, int], pairs: Mapping[tuple[Any, Any], Pairs]) -> None:
    """Fill `made` from what is known: along the computation first, against it where that ends."""
    readers: dict[Any, list[Any]] = {}
    sources: dict[Any, list[Any]] = {}
    for source, node in pairs:
        readers.setdefault(source, []).append(node)
        sources.setdefault(node, []).append(source)
    ahead, back = deque(made), deque(made)
    while ahead or back:
        if ahead:
            node = ahead.popleft()
            found = [(r, _only(made[node], pairs[node, r])) for r in readers.get(node, ())]
        else:
            # Only where nothing is left to do forwards: what is computed knows better than what is
            # read.
            node = back.popleft()
            found = [(s, _only_source(made[node], pairs[s, node])) for s in sources.get(node, ())]
        for other, axis in found:
            if axis is not None and other not in made:
                made[other] = axis
                ahead.append(other)
                back.append(other)


def _only(axis: int, pairs: Pairs) -> int | None:
    return _single(after for before, after in pairs if before == axis)


def _only_source(axis: int, pairs: Pairs) -> int | None:
    return _single(before for before, after in pairs if after == axis)


def _single(values: Iterator[int]) -> int | None:
    found = set(values)
    return found.pop() if len(found) == 1 else None
