"""Which layers keep all their outputs, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.pruning.coupling import LayerDim, PruningGroup
from kdeploy.pruning.importance import weights
from kdeploy.torch_module.named_inputs import call

OUTPUT = "its outputs are the model's"
FROZEN = (
    "its outputs are joined to those of a layer that keeps its own, or they pass what cannot be "
    "followed"
)
UNEVEN = "its channels cannot be taken evenly from all groups"


def skipped_layers(
    original: nn.Module,
    pruned: nn.Module,
    example: Tensor,
    *,
    found: Iterable[PruningGroup],
    ranked: Iterable[PruningGroup],
    is_protected: Callable[[str], bool],
    round_to: int,
) -> list[dict[str, str]]:
    """Return a row for each linear and convolution layer that is as wide as it was.

    Args:
        original: Before.
        pruned: After.
        example: A batch that the model can run on.
        found: The groups that coupling allows to go, before anything is balanced.
        ranked: Those that were ranked.
        is_protected: As for `find_groups`.
        round_to: Of the rules.
    """
    before, after = (_widths(model) for model in (original, pruned))
    ends = _ends(original, example)
    may_go, was_ranked = (_sides(groups) for groups in (found, ranked))

    def reason(name: str) -> str:
        layer_dim = LayerDim(name, "out")
        if is_protected(name):
            return "`ignore` names it"
        if layer_dim not in may_go:
            return OUTPUT if name in ends else FROZEN
        if layer_dim not in was_ranked:
            return UNEVEN
        return f"too few of its channels are among the least important to round to {round_to}"

    return [
        {"layer": name, "reason": reason(name)}
        for name, width in before.items()
        if after[name] == width
    ]


def _ends(model: nn.Module, example: Tensor) -> set[str]:
    """Return the layers whose outputs are the model's as they are, reshaped at most."""
    made: dict[str, Tensor] = {}

    def watched(name: str) -> Any:
        return lambda module, inputs, output: made.__setitem__(name, output)

    with ExitStack() as hooks, torch.no_grad():
        for name in weights(model):
            hook = model.get_submodule(name).register_forward_hook(watched(name))
            hooks.enter_context(hook)
        outputs = call(model, example.to(next(model.parameters()).device))
    return {
        name
        for name, tensor in made.items()
        if isinstance(outputs, Tensor) and tensor.data_ptr() == outputs.data_ptr()
    }


def _widths(model: nn.Module) -> dict[str, int]:
    layers = {name: model.get_submodule(name) for name in weights(model)}
    return {
        name: layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        for name, layer in layers.items()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    }


def _sides(groups: Iterable[PruningGroup]) -> set[LayerDim]:
    return {layer_dim for group in groups for layer_dim in group.channels}
