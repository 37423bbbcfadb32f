"""Which numbers a channel has on the other side of an operation that renumbers channels.

Concatenations, splits, flattening and shuffles. All is read from autograd, which recorded the
shapes and the order of the parts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import accumulate, pairwise
from math import prod
from typing import Any

from torch_pruning.ops import OPTYPE

from kdeploy.pruning.axes import is_flattening
from kdeploy.pruning.operations import joins_channels, shape_given, shape_made, split_sizes
from kdeploy.pruning.tracing import ChannelGraph

Renumber = Callable[[int], list[int]]


def number_channels(graph: ChannelGraph) -> None:
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
    steps: list[tuple[Any, Renumber, Renumber]] = [
        (s.node, s.after, s.before) for s in graph.shuffles
    ]
    steps += [step for node in nodes if (step := _flattening(graph, node)) is not None]
    for node, enter, leave in steps:
        for source in node.inputs:
            for edge in _edges(source, node):
                edge.index_mapping.append(enter)
            for edge in _edges(node, source):
                edge.index_mapping.insert(0, leave)


def _edges(source: Any, target: Any) -> list[Any]:
    return [edge for edge in source.dependencies if edge.target is target]


def _spans(graph: ChannelGraph, node: Any, other: Any) -> list[range]:
    """Return which channels of a split or concatenation each edge to `other` carries."""
    if node.type == OPTYPE.SPLIT and other in node.outputs:
        bounds = [0, *accumulate(split_sizes(node, axis=graph.axes.given(node)))]
        read = [n for source, n in other.grad_fn.next_functions if source is node.grad_fn]
        return [range(bounds[n], bounds[n + 1]) for n in read] if len(bounds) > 1 else []
    if node.type == OPTYPE.CONCAT and other in node.inputs:
        channels = graph.axes.made.get(node)
        if channels is None or not joins_channels(node, axis=channels):
            return []
        sources = node.grad_fn.next_functions
        sizes = [source._input_metadata[number].shape[channels] for source, number in sources]
        spans = [range(start, end) for start, end in pairwise([0, *accumulate(sizes)])]
        return [span for source, span in zip(node.inputs, spans, strict=True) if source is other]
    return []


def _into(span: range, index: int) -> list[int]:
    return [span.start + index]


def _out_of(span: range, index: int) -> list[int]:
    return [index - span.start] if index in span else []


def _flattening(graph: ChannelGraph, node: Any) -> tuple[Any, Renumber, Renumber] | None:
    """Return how (batch, channels, ...) becomes (batch, all the rest), or the other way round."""
    if node.type != OPTYPE.RESHAPE:
        return None
    given, made = shape_given(node), shape_made(node)
    axes = (graph.axes.given(node), graph.axes.made.get(node))
    channels = axes[len(made) > 2]  # in the shape that has a dimension of its own for them
    if not is_flattening(given, made) or channels is None:
        return None
    shape = max(given, made, key=len)
    count, inner, total = shape[channels], prod(shape[channels + 1 :]), prod(shape[1:])

    def flatten(index: int) -> list[int]:
        starts = range(index * inner, total, count * inner)
        return [start + i for start in starts for i in range(inner)]

    def unflatten(index: int) -> list[int]:
        return [index // inner % count]

    is_down = len(made) == 2
    return (node, flatten, unflatten) if is_down else (node, unflatten, flatten)
