"""What can be removed of multi-head attention: whole heads, or a channel of every head.

Michel et al., Are Sixteen Heads Really Better than One?, NeurIPS 2019, arXiv:1905.10650. The
numbers of heads and channels stand in attributes of modules, under no fixed names: those whose
name and value fit are lowered, and each attention is tried on a copy of the model, with every
reading of its attributes, until the copy computes what the whole model does with these channels
hidden. What cannot be shown to stay right stays whole.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Literal

from torch import Tensor, nn

from kdeploy.pruning.attention import AttentionLayers, find_attentions
from kdeploy.pruning.groups import LayerDim, PruningGroup
from kdeploy.pruning.removal import all_channels, remove_checked
from kdeploy.pruning.size_attributes import attribute_path
from kdeploy.pruning.tracing import ChannelGraph
from kdeploy.untrusted.user_code import described

Part = Literal["heads", "width"]
ROUNDING = 1e-3  # of the outputs' spread; sums in another order stay below 1e-4
_SIZES = ("dim", "size", "width", "channels", "d_k", "d_v")
_INNER = ("head", "inner", "attn", "attention")
_Numbers = Mapping[str, Literal["heads", "width", "all"]]


def find_heads(
    graph: ChannelGraph,
    model: nn.Module,
    example: Tensor,
    *,
    first: Part = "heads",
    is_protected: Callable[[str], bool],
    taken: Collection[LayerDim],
) -> tuple[list[PruningGroup], dict[str, str]]:
    """Return the groups of all attentions; and the modules of those that stay whole, with reasons.

    Args:
        graph: Of the model.
        model: In eval mode.
        example: What it ran on.
        first: What is tried first; the other where that fails.
        is_protected: Tells by a layer's name that its outputs must all stay.
        taken: Sides of layers that are in other groups.
    """
    attentions, reasons = find_attentions(graph.calls, model, len(example))
    groups: list[PruningGroup] = []
    used = set(taken)
    for attention in attentions:
        dims = {LayerDim(table.layer, "out") for table in attention.parts}
        dims.add(LayerDim(attention.project.layer, "in"))
        if any(is_protected(table.layer) for table in attention.parts):
            reasons[attention.module] = "`ignore` names it"
        elif dims & used:
            reasons[attention.module] = "its channels are read elsewhere as well"
        else:
            found, reason = _tried(attention, model, example, first)
            groups += found
            used |= dims
            if not found:
                reasons[attention.module] = reason
    return groups, reasons


def _tried(
    attention: AttentionLayers, model: nn.Module, example: Tensor, first: Part
) -> tuple[list[PruningGroup], str]:
    """Return the groups whose removal is right, or none and what was wrong."""
    reason = "it has one head, of one channel"
    order: tuple[Part, Part] = ("heads", "width") if first == "heads" else ("width", "heads")
    for part in order:
        best: tuple[float, list[PruningGroup]] | None = None
        for groups in _readings(attention, model, part):
            try:
                # Half of them at once: an attribute that was read wrongly shows in one trial.
                half = all_channels(groups[: max(1, len(groups) // 2)])
                moved = remove_checked(copy.deepcopy(model), half, example)
            except Exception as error:  # whatever a model's code raises
                reason = described(error)
                continue
            if best is None or moved < best[0]:
                best = (moved, groups)
            if part == "heads" and moved < ROUNDING:
                break  # of a width, another reading may fit better: that of the scale
        if best is not None and best[0] < ROUNDING:
            return best[1], ""
        if best is not None:
            reason = f"with fewer {part} it computes something else"
    return [], reason


def _readings(
    attention: AttentionLayers, model: nn.Module, part: Part
) -> Iterator[list[PruningGroup]]:
    """Yield the groups by each reading of what the attributes say."""
    shapes = {tuple(table.channels.shape) for table in attention.parts}
    if len(shapes) != 1:
        return
    [(heads, width)] = shapes
    if (heads if part == "heads" else width) < 2:
        return
    numbers = _numbers(attention, model, heads, width, part)
    totals = [path for path, kind in numbers.items() if kind == "all"]
    inner = [p for p in totals if any(word in p.rpartition(".")[2] for word in _INNER)]
    # `embed_dim` often equals heads x width and must stay; `inner_dim` must shrink. All are tried.
    for kept in dict.fromkeys((tuple(inner), tuple(totals), ())):
        chosen = {p: kind for p, kind in numbers.items() if kind != "all" or p in kept}
        yield _groups(attention, chosen, part, is_scaled=False)
        if part == "width":
            yield _groups(attention, chosen, part, is_scaled=True)


def _numbers(
    attention: AttentionLayers, model: nn.Module, heads: int, width: int, part: Part
) -> _Numbers:
    """Return the attributes that count heads, channels of a head, or channels of all heads."""
    found: dict[str, Literal["heads", "width", "all"]] = {}
    for module in sorted(attention.modules):
        for name, value in vars(model.get_submodule(module)).items():
            # Not `isinstance`: a flag such as `batch_first=True` is an int as well.
            if type(value) is not int:
                continue
            is_size = any(word in name for word in _SIZES)
            path = attribute_path(module, name)
            if part == "heads" and value == heads and not is_size and _counts_heads(name):
                found[path] = "heads"
            elif part == "width" and value == width and is_size:
                found[path] = "width"
            elif value == heads * width and is_size:
                found[path] = "all"
    return found


def _counts_heads(name: str) -> bool:
    return "head" in name or name == "h"


def _groups(
    attention: AttentionLayers, numbers: _Numbers, part: Part, *, is_scaled: bool
) -> list[PruningGroup]:
    heads, width = attention.query.channels.shape
    return [
        _pruning_group(attention, numbers, part, index, is_scaled=is_scaled)
        for index in range(heads if part == "heads" else width)
    ]


def _pruning_group(
    attention: AttentionLayers, numbers: _Numbers, part: Part, index: int, *, is_scaled: bool
) -> PruningGroup:
    """Return a head, or a channel of every head.

    Where the products are divided by the root of the width as it is, the channels that stay are
    made smaller, in queries and keys alike; values of the same layer are, too, and the layer
    that reads them makes up for it.
    """
    heads, width = attention.query.channels.shape
    dimension = 0 if part == "heads" else 1
    channels: dict[LayerDim, set[int]] = {}
    for table in attention.parts:
        rows = table.channels.select(dimension, index).tolist()
        channels.setdefault(LayerDim(table.layer, "out"), set()).update(rows)
    columns = attention.project.channels.select(dimension, index).tolist()
    channels[LayerDim(attention.project.layer, "in")] = set(columns)
    if part == "width":
        factors = {attention.query.layer, attention.key.layer}
        for layer in factors:
            side = "scaled product" if is_scaled else "product"
            channels[LayerDim(layer, side)] = channels[LayerDim(layer, "out")]
        if is_scaled and attention.value.layer in factors:
            channels[LayerDim(attention.project.layer, "unscaled")] = set(columns)
    all_of_it = (
        range(index * width, (index + 1) * width)
        if part == "heads"
        else range(index, heads * width, width)
    )
    for path, kind in numbers.items():
        # Lowered by how many there are: which ones they are matters to no attribute.
        channels[LayerDim(path, "number")] = set(all_of_it) if kind == "all" else {index}
    return PruningGroup(
        channels={layer_dim: tuple(sorted(channels[layer_dim])) for layer_dim in sorted(channels)},
        shares={},
    )
