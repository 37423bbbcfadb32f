"""Which number a channel has on the other side of a concatenation, a split or a shuffle.

torch-pruning numbers the parts of splits and concatenations in the order in which it met them,
and does not know shuffles. Here the numbers are those that autograd recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from operator import add
from typing import Any

from torch_pruning.dependency.index_mapping import _ConcatIndexMapping, _SplitIndexMapping
from torch_pruning.ops import OPTYPE

from kdeploy.channels.operations import joins_channels, operation, shape_given, shape_made

_THEIRS = (_ConcatIndexMapping, _SplitIndexMapping)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shuffle:
    """Channels seen as a table of rows x columns, and transposed."""

    node: Any
    """Its channels are numbered after the shuffle, those of its inputs before."""
    rows: int
    columns: int
    reshapes: tuple[Any, ...] = ()
    """The nodes before and after that make the table and undo it."""

    def after(self, index: int) -> int:
        """Return where a channel goes."""
        return index % self.columns * self.rows + index // self.columns

    def before(self, index: int) -> int:
        """Return where a channel comes from."""
        return index % self.rows * self.columns + index // self.rows

    def partner(self, index: int) -> int:
        """Return the first of the channels, numbered after the shuffle, that go together.

        The number of groups stays when channels go: one channel of each group must go at once.
        Which side of the table is the groups is not recorded; they are the smaller number.
        """
        row, column = index % self.rows, index // self.rows
        return column * self.rows if self.rows <= self.columns else row


def find_shuffles(graph: Any) -> list[Shuffle]:
    """Return the channel shuffles of a dependency graph."""
    found = [_shuffle_at(node) for node in graph.module2node.values()]
    return [shuffle for shuffle in found if shuffle is not None]


def number_channels(graph: Any, shuffles: Collection[Shuffle]) -> None:
    """Make the edges of the graph translate channels as the model does."""
    nodes = list(graph.module2node.values())
    for node in nodes:
        for edge in node.dependencies:
            edge.index_mapping = [m for m in edge.index_mapping if not isinstance(m, _THEIRS)]
    for node in nodes:
        for other in dict.fromkeys([*node.inputs, *node.outputs]):
            spans = _spans(node, other)
            for edge, (start, _) in zip(_edges(other, node), spans, strict=bool(spans)):
                edge.index_mapping.append(_renumbering(partial(add, start)))
            for edge, (start, end) in zip(_edges(node, other), spans, strict=bool(spans)):
                inside = _renumbering(partial(add, -start), range(start, end))
                edge.index_mapping.insert(0, inside)
    for shuffle in shuffles:
        for source in shuffle.node.inputs:
            for edge in _edges(source, shuffle.node):
                edge.index_mapping.append(_renumbering(shuffle.after))
            for edge in _edges(shuffle.node, source):
                edge.index_mapping.insert(0, _renumbering(shuffle.before))


def _spans(node: Any, other: Any) -> list[tuple[int, int]]:
    """Return which channels of a split or concatenation each edge to `other` carries."""
    if node.type == OPTYPE.SPLIT and node.module.split_sizes and other in node.outputs:
        bounds = [0, *accumulate(node.module.split_sizes)]
        read = [n for source, n in other.grad_fn.next_functions if source is node.grad_fn]
        return [(bounds[number], bounds[number + 1]) for number in read]
    if node.type == OPTYPE.CONCAT and joins_channels(node) and other in node.inputs:
        sources = node.grad_fn.next_functions
        sizes = [source._input_metadata[number].shape[1] for source, number in sources]
        bounds = [0, *accumulate(sizes)]
        pairs = zip(node.inputs, pairwise(bounds), strict=True)
        return [bound for source, bound in pairs if source is other]
    return []


def _edges(source: Any, target: Any) -> list[Any]:
    return [edge for edge in source.dependencies if edge.target is target]


def _renumbering(change: Callable[[int], int], inside: Container[int] | None = None) -> Any:
    """Return an index mapping as torch-pruning calls it."""
    return lambda pairs: [
        pair._replace(idx=change(pair.idx))
        for pair in pairs
        if inside is None or pair.idx in inside
    ]


def _shuffle_at(node: Any) -> Shuffle | None:
    if node.type != OPTYPE.ELEMENTWISE:
        return None
    if operation(node) == "ChannelShuffle":
        groups = int(node.grad_fn._saved_groups)
        return Shuffle(node=node, rows=groups, columns=shape_made(node)[1] // groups)
    if operation(node) not in ("Transpose", "Permute") or not node.inputs:
        return None
    first, last = node.inputs[0], node
    while last.outputs and (last is node or operation(last) == "Clone"):
        last = last.outputs[0]
    if first.type != OPTYPE.RESHAPE or last.type != OPTYPE.RESHAPE:
        return None
    given, table, turned = shape_given(first), shape_made(first), shape_made(node)
    is_turned = turned[1:3] == (table[2:3] + table[1:2]) and turned[3:] == table[3:]
    if given != shape_made(last) or len(table) != len(given) + 1 or not is_turned:
        return None
    return Shuffle(node=node, rows=table[1], columns=table[2], reshapes=(first, last))
