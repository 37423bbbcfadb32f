"""Find the channels that can only be removed together.

Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023, arXiv:2301.12900. torch-pruning
follows which layer reads which channel through residual sums, concatenations, splits and
flattening. On its graph, this module joins channels by union-find, so that every coupling holds
at once; follows channel shuffles; and freezes what nothing may touch: the model's input and
output, and whatever is sliced or reshaped in a way that no rule explains.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch_pruning.ops import OPTYPE

from kdeploy.pruning.explained import is_explained, reduces_channels
from kdeploy.pruning.groups import LayerDim, PruningGroup
from kdeploy.pruning.hardcoded_sizes import fixed_nodes, stated_splits
from kdeploy.pruning.heads import find_heads
from kdeploy.pruning.index_mapping import Renumber, number_channels
from kdeploy.pruning.operations import shape_made, split_sizes
from kdeploy.pruning.shuffles import Shuffle
from kdeploy.pruning.tracing import ChannelGraph, trace

__all__ = ["LayerDim", "PruningGroup", "find_groups"]

Element = tuple[Any, str, int]
"""A channel of a node of the graph: (node, "in" or "out", index)."""


def find_groups(
    model: nn.Module,
    example: Tensor,
    *,
    is_protected: Callable[[str], bool] = lambda name: False,
    attention: Literal["heads", "width"] = "heads",
    skipped: MutableMapping[str, str] | None = None,
) -> list[PruningGroup]:
    """Return all groups that may be removed, in the order of the layers.

    Args:
        model: In eval mode, every parameter asking for gradients: tracing relies on autograd.
        example: A batch that the model can run on.
        is_protected: Tells by a layer's name that its outputs must all stay.
        attention: What goes of multi-head attention: heads, or a channel of every head; the other
            where this is not possible.
        skipped: Is told which attentions stay whole, by module, and why.

    Raises:
        ModelError: the model cannot be followed.
    """
    graph = trace(model, example)
    number_channels(graph)
    forest = _Forest()
    reductions = {node for node in graph.nodes if reduces_channels(node, graph.axes)}
    for node in graph.nodes:
        if node.type in (OPTYPE.CONV, OPTYPE.DEPTHWISE_CONV, OPTYPE.LINEAR):
            _follow(graph, node, forest, reductions)
    names = {module: name for name, module in model.named_modules()}
    names |= {parameter: name for name, parameter in model.named_parameters()}
    stated = stated_splits(graph, model)
    # A split whose sizes are a module's list is no obstacle: the list shrinks with the channels.
    frozen = _frozen(graph, reductions) - stated.keys()
    for node, side, index in list(forest.elements()):
        is_kept = not node.outputs or is_protected(names.get(node.module, ""))
        if node in frozen or (side == "out" and is_kept):
            forest.freeze((node, side, index))
    _couple_shuffled(graph.shuffles, forest)
    places = _places(graph, names, stated)
    parts = {node: _parts(graph, node, place) for node, place in stated.items()}
    sides = {
        node: f"dimension {graph.axes.made.get(node)}"
        for node in graph.nodes
        if node.type == OPTYPE.PARAMETER
    }
    groups = [_pruning_group(members, names, places, parts, sides) for members in forest.classes()]
    heads, reasons = find_heads(
        graph,
        model,
        example,
        first=attention,
        is_protected=is_protected,
        taken={layer_dim for group in groups for layer_dim in group.channels},
    )
    if skipped is not None:
        skipped.update(reasons)
    return groups + heads


def _frozen(graph: ChannelGraph, reductions: Collection[Any]) -> set[Any]:
    """Return the nodes through which channels are not followed."""
    harmless = {*reductions, *graph.axes.inside, *(s.steps[-1] for s in graph.shuffles if s.steps)}
    return fixed_nodes(graph) | {
        node
        for node in graph.nodes
        if node in graph.sources or (node not in harmless and not is_explained(node, graph.axes))
    }


class _Forest:
    """Union-find over channels; one tree, the root None, holds all that is frozen."""

    def __init__(self) -> None:
        self._parents: dict[Element | None, Element | None] = {None: None}

    def __contains__(self, element: Element) -> bool:
        return element in self._parents

    def elements(self) -> Iterator[Element]:
        return (element for element in self._parents if element is not None)

    def join(self, one: Element | None, other: Element | None) -> None:
        first, second = self._root(one), self._root(other)
        # What is frozen swallows all that is joined with it, whichever side it is on.
        if first is None:
            self._parents[second] = None
        elif first != second:
            self._parents[first] = second

    def freeze(self, element: Element) -> None:
        self.join(None, element)

    def classes(self) -> list[list[Element]]:
        """Return the elements that are joined; without those that are frozen."""
        found: dict[Element, list[Element]] = defaultdict(list)
        for element in self.elements():
            root = self._root(element)
            if root is not None:
                found[root].append(element)
        return list(found.values())

    def _root(self, element: Element | None) -> Element | None:
        path = []
        # Path compression: without it deep residual networks take quadratic time.
        while (parent := self._parents.setdefault(element, element)) != element:
            path.append(element)
            element = parent
        for passed in path:
            self._parents[passed] = element
        return element


def _follow(graph: ChannelGraph, root: Any, forest: _Forest, reductions: Collection[Any]) -> None:
    """Join each output channel of a layer with all that it meets."""
    pruner = graph.pruner(root)
    queue = [(root, pruner.prune_out_channels, list(range(graph.count(root, "out") or 0)))]
    while queue:
        node, function, indices = queue.pop()
        side = graph.side(node, function)
        for edge in node.dependencies:
            if not edge.is_triggered_by(function):
                continue
            if _is_behind(reductions, node, edge.target):
                if edge.target in reductions and not _is_one_for_all(graph, edge.target):
                    for index in indices:
                        forest.freeze((node, side, index))
                continue
            if _is_torn(graph, reductions, node, edge.target):
                for index in indices:
                    forest.freeze((node, side, index))
                continue
            other = graph.side(edge.target, edge.handler)
            fresh = _join(graph, forest, (node, side, indices), edge, other)
            if fresh:
                queue.append((edge.target, edge.handler, fresh))


def _is_behind(reductions: Collection[Any], node: Any, other: Any) -> bool:
    """Tell whether an edge runs between a sum over all channels and what reads the sum.

    The sum has channels of its own, of which nothing is known: those that meet them are frozen,
    unless it is one for all.
    """
    return (node in reductions and other in node.outputs) or (
        other in reductions and node in other.outputs
    )


def _is_one_for_all(graph: ChannelGraph, reduction: Any) -> bool:
    """Tell whether a sum over channels keeps their dimension, of size 1."""
    axis = graph.axes.made.get(reduction)
    return axis is not None and shape_made(reduction)[axis] == 1


def _is_torn(graph: ChannelGraph, reductions: Collection[Any], node: Any, other: Any) -> bool:
    """Tell whether two nodes take different dimensions for the channels between them."""
    if node in reductions or other in reductions:
        return False
    return graph.axes.is_torn(node, other) or graph.axes.is_torn(other, node)


def _join(
    graph: ChannelGraph, forest: _Forest, source: tuple[Any, str, list[int]], edge: Any, other: str
) -> list[int]:
    """Join channels with those at the other end of an edge; return the ones not seen before."""
    node, side, indices = source
    # Beyond the end: a layer with one channel that is broadcast over all of this side.
    end = graph.count(edge.target, other)
    fresh = []
    for index in indices:
        for number in _renumbered(index, edge.index_mapping):
            element = (edge.target, other, number)
            if end is None or number < end:
                if element not in forest:
                    fresh.append(number)
                forest.join((node, side, index), element)
    return fresh


def _renumbered(index: int, steps: Sequence[Renumber]) -> list[int]:
    numbers = [index]
    for step in steps:
        numbers = [after for number in numbers for after in step(number)]
    return numbers


def _couple_shuffled(shuffles: Collection[Shuffle], forest: _Forest) -> None:
    nodes = {shuffle.node: shuffle for shuffle in shuffles}
    for node, side, index in list(forest.elements()):
        if node in nodes:
            forest.join((node, side, index), (node, side, nodes[node].partner(index)))


def _parts(graph: ChannelGraph, node: Any, place: str) -> list[tuple[LayerDim, int]]:
    """Return for each channel of a split the place of its part's size, and which it is there."""
    sizes = split_sizes(node, axis=graph.axes.given(node))
    return [
        (LayerDim(f"{place}.{part}", "number"), index)
        for part, size in enumerate(sizes)
        for index in range(size)
    ]


def _places(
    graph: ChannelGraph, names: Mapping[Any, str], stated: Collection[Any]
) -> dict[tuple[Any, str], tuple[str, int, int]]:
    """Return what works group by group: its name, the channels of a group, the groups."""
    places = {}
    for node in graph.nodes:
        module, name = node.module, names.get(node.module, "")
        if node.type == OPTYPE.CONV and module.groups > 1:
            # A grouped convolution needs equally many channels in each of its groups, on both
            # sides.
            for side, count in (("out", module.out_channels), ("in", module.in_channels)):
                places[node, side] = (f"{name} {side}", count // module.groups, module.groups)
        elif node.type == OPTYPE.GN:
            size = module.num_channels // module.num_groups
            places[node, "out"] = (name, size, module.num_groups)
        elif node.type == OPTYPE.SPLIT and node not in stated:
            sizes = split_sizes(node, axis=graph.axes.given(node))
            if sizes:
                places[node, "out"] = (f"split {len(places)}", sizes[0], len(sizes))
    return places


def _pruning_group(
    members: Collection[Element],
    names: Mapping[Any, str],
    places: Mapping[tuple[Any, str], tuple[str, int, int]],
    parts: Mapping[Any, Sequence[tuple[LayerDim, int]]],
    sides: Mapping[Any, str],
) -> PruningGroup:
    channels: dict[LayerDim, list[int]] = defaultdict(list)
    shares: dict[str, list[int]] = {}
    for node, side, index in members:
        # Elementwise modules (ReLU, dropout) have a name, and no channels to remove.
        if node.module in names and node.type != OPTYPE.ELEMENTWISE:
            channels[LayerDim(names[node.module], sides.get(node, side))].append(index)
        if node in parts:
            number, own = parts[node][index]
            channels[number].append(own)
        if (node, side) in places:
            place, size, count = places[node, side]
            shares.setdefault(place, [0] * count)[index // size] += 1
    return PruningGroup(
        channels={layer_dim: tuple(sorted(channels[layer_dim])) for layer_dim in sorted(channels)},
        shares={place: tuple(shares[place]) for place in sorted(shares)},
    )
