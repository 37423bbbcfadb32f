"""Which numbers a channel has on the other side of an operation that renumbers channels.

Concatenations, splits, flattening and shuffles. All is read from autograd, which recorded the
shapes and the order of the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from math import prod
from typing import Any

from torch_pruning.ops import OPTYPE

from kdeploy.channels.operations import (
    channel_dimension,
    is_flattening,
    joins_channels,
    operation,
    shape_given,
    shape_made,
    split_sizes,
)
from kdeploy.channels.tracing import Graph

Renumber = Callable[[int], list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shuffle:
    """Channels seen as a table of rows x columns, and transposed."""

    node: Any
    """Its channels are numbered after the shuffle, those of its inputs before."""
    rows: int
    columns: int
    reshapes: tuple[Any, ...] = ()
    """The nodes before and after that make the table and undo it."""

    def after(self, index: int) -> list[int]:
        """Return where a channel goes."""
        return [index % self.columns * self.rows + index // self.columns]

    def before(self, index: int) -> list[int]:
        """Return where a channel comes from."""
        return [index % self.rows * self.columns + index // self.rows]

    def partner(self, index: int) -> int:
        """Return the first of the channels, numbered after the shuffle, that go together.

        The number of groups stays when channels go: one channel of each group must go at once.
        Which side of the table is the groups is not recorded; they are the smaller number.
        """
        row, column = index % self.rows, index // self.rows
        return column * self.rows if self.rows <= self.columns else row


def find_shuffles(graph: Graph) -> list[Shuffle]:
    """Return the channel shuffles of a graph."""
    found = [_shuffle_at(node) for node in graph.nodes]
    return [shuffle for shuffle in found if shuffle is not None]


def number_channels(graph: Graph, shuffles: Iterable[Shuffle]) -> None:
    """Make the edges of the graph renumber channels as the model does.

    An edge's `index_mapping` is a list of steps; ours take one number and give all that it is on
    the other side.
    """
    nodes = graph.nodes
    for edge in (edge for node in nodes for edge in node.dependencies):
        edge.index_mapping = []
    for node in nodes:
        for other in dict.fromkeys([*node.inputs, *node.outputs]):
            spans = _spans(graph, node, other)
            for edge, span in zip(_edges(other, node), spans, strict=bool(spans)):
                edge.index_mapping.append(partial(_into, span))
            for edge, span in zip(_edges(node, other), spans, strict=bool(spans)):
                edge.index_mapping.insert(0, partial(_out_of, span))
    steps: list[tuple[Any, Renumber, Renumber]] = [(s.node, s.after, s.before) for s in shuffles]
    steps += [step for node in nodes if (step := _flattening(graph, node)) is not None]
    for node, enter, leave in steps:
        for source in node.inputs:
            for edge in _edges(source, node):
                edge.index_mapping.append(enter)
            for edge in _edges(node, source):
                edge.index_mapping.insert(0, leave)


def _edges(source: Any, target: Any) -> list[Any]:
    return [edge for edge in source.dependencies if edge.target is target]


def _spans(graph: Graph, node: Any, other: Any) -> list[range]:
    """Return which channels of a split or concatenation each edge to `other` carries."""
    if node.type == OPTYPE.SPLIT and other in node.outputs:
        bounds = [0, *accumulate(split_sizes(node, is_tokens=graph.is_tokens))]
        read = [n for source, n in other.grad_fn.next_functions if source is node.grad_fn]
        return [range(bounds[n], bounds[n + 1]) for n in read] if len(bounds) > 1 else []
    if node.type == OPTYPE.CONCAT and other in node.inputs:
        if not joins_channels(node, is_tokens=graph.is_tokens):
            return []
        channels = channel_dimension(shape_made(node), is_tokens=graph.is_tokens)
        sources = node.grad_fn.next_functions
        sizes = [source._input_metadata[number].shape[channels] for source, number in sources]
        spans = [range(start, end) for start, end in pairwise([0, *accumulate(sizes)])]
        return [span for source, span in zip(node.inputs, spans, strict=True) if source is other]
    return []


def _into(span: range, index: int) -> list[int]:
    return [span.start + index]


def _out_of(span: range, index: int) -> list[int]:
    return [index - span.start] if index in span else []


def _flattening(graph: Graph, node: Any) -> tuple[Any, Renumber, Renumber] | None:
    """Return how (batch, channels, ...) becomes (batch, all the rest), or the other way round."""
    if node.type != OPTYPE.RESHAPE:
        return None
    given, made = shape_given(node), shape_made(node)
    if not is_flattening(given, made):
        return None
    shape = max(given, made, key=len)
    channels = channel_dimension(shape, is_tokens=graph.is_tokens)
    count, inner, total = shape[channels], prod(shape[channels + 1 :]), prod(shape[1:])

    def flatten(index: int) -> list[int]:
        starts = range(index * inner, total, count * inner)
        return [start + i for start in starts for i in range(inner)]

    def unflatten(index: int) -> list[int]:
        return [index // inner % count]

    is_down = len(made) == 2
    return (node, flatten, unflatten) if is_down else (node, unflatten, flatten)


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
