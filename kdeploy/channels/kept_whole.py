"""Which layers keep all their outputs, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from kdeploy.channels.coupling import Slot, Unit
from kdeploy.channels.importance import weights

FROZEN = (
    "its outputs are the model's or are joined to those of a layer that keeps its own, "
    "or they pass what cannot be followed"
)
UNEVEN = "its channels cannot be taken evenly from all groups"


def kept_whole(
    original: nn.Module,
    pruned: nn.Module,
    *,
    found: Iterable[Unit],
    ranked: Iterable[Unit],
    is_protected: Callable[[str], bool],
    round_to: int,
) -> list[dict[str, str]]:
    """Return a row for each linear and convolution layer that is as wide as it was.

    Args:
        original: Before.
        pruned: After.
        found: The units that coupling allows to go, before anything is balanced.
        ranked: Those that were ranked.
        is_protected: As for `find_units`.
        round_to: Of the rules.
    """
    before, after = (_widths(model) for model in (original, pruned))
    may_go, was_ranked = (_sides(units) for units in (found, ranked))

    def reason(name: str) -> str:
        slot = Slot(name, "out")
        if is_protected(name):
            return "`ignore` names it"
        if slot not in may_go:
            return FROZEN
        if slot not in was_ranked:
            return UNEVEN
        return f"too few of its channels are among the least important to round to {round_to}"

    return [
        {"layer": name, "reason": reason(name)}
        for name, width in before.items()
        if after[name] == width
    ]


def _widths(model: nn.Module) -> dict[str, int]:
    layers = {name: model.get_submodule(name) for name in weights(model)}
    return {
        name: layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        for name, layer in layers.items()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    }


def _sides(units: Iterable[Unit]) -> set[Slot]:
    return {slot for unit in units for slot in unit.channels}
