"""Remove channels from the layers of a model, or hide them from all that read them."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch_pruning.ops import module2type
from torch_pruning.pruner.function import PrunerBox

from kdeploy.errors import ModelError
from kdeploy.pruning.groups import LayerDim, PruningGroup
from kdeploy.pruning.size_attributes import lower_number
from kdeploy.pruning.stated_widths import hint_for
from kdeploy.torch_module.named_inputs import call
from kdeploy.untrusted.user_code import users_code


def all_channels(groups: Collection[PruningGroup]) -> dict[LayerDim, tuple[int, ...]]:
    """Return the channels of several groups by the side of the layer."""
    found: dict[LayerDim, set[int]] = defaultdict(set)
    for group in groups:
        for layer_dim, indices in group.channels.items():
            found[layer_dim].update(indices)
    return {layer_dim: tuple(sorted(found[layer_dim])) for layer_dim in sorted(found)}


def remove_checked(
    model: nn.Module, channels: Mapping[LayerDim, Collection[int]], example: Tensor
) -> float:
    """Remove channels in place, and compare with the full model in which no layer reads them.

    Returns:
        The largest difference, in standard deviations of the output.

    Raises:
        ModelError: the model cannot run without the channels.
    """
    hidden = hide_channels(model, channels)
    remove_channels(model, channels)
    with torch.no_grad():
        try:
            with users_code("with fewer channels the model cannot run", model=model):
                found = call(model, example)
        except ModelError as error:
            outputs = [layer_dim for layer_dim in channels if layer_dim.side == "out"]
            widths = {s.layer: (channel_count(hidden, s), channel_count(model, s)) for s in outputs}
            error.hint = hint_for(error.message, model, widths)
            raise
        expected = call(hidden, example)
    # 1e-9: a model whose answers are all alike has no deviation.
    return float((found - expected).abs().max() / expected.std().clamp_min(1e-9))


def check_sizes(model: nn.Module) -> None:
    """Raise AssertionError unless every layer's stated sizes are those of its weights."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            stated = (module.out_features, module.in_features)
            assert tuple(module.weight.shape) == stated, f"`{name}` states {stated}"
        if isinstance(module, nn.modules.conv._ConvNd):
            stated = (module.out_channels, module.in_channels // module.groups)
            if module.transposed:
                stated = (module.in_channels, module.out_channels // module.groups)
            assert tuple(module.weight.shape[:2]) == stated, f"`{name}` states {stated}"


def channel_count(model: nn.Module, layer_dim: LayerDim) -> int:
    """Return how many channels a side of a layer has."""
    found = _get(model, layer_dim.layer)
    if isinstance(found, nn.Parameter):
        return found.shape[_dimension(layer_dim.side)]
    pruner = PrunerBox[module2type(found)]
    # torch-pruning's pruners are shared objects, with the dimension of their last layer.
    pruner.pruning_dim = -1
    count = pruner.get_out_channels if layer_dim.side == "out" else pruner.get_in_channels
    return int(count(found) or 1)


def remove_channels(model: nn.Module, channels: Mapping[LayerDim, Collection[int]]) -> None:
    """Remove the channels from the model, in place; gradients are dropped.

    Parameters keep asking for gradients, or not, as they did.
    """
    asks = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for (name, side), indices in channels.items():
        if side == "number":
            lower_number(model, name, len(indices))
            continue
        module = _get(model, name)
        if side in ("product", "scaled product", "unscaled"):
            _scale(module, side, len(indices))
            continue
        if isinstance(module, nn.Parameter):
            _remove_from_parameter(model, LayerDim(name, side), module, indices)
        elif side == "in" and isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1:
            _remove_grouped_inputs(module, indices)
        else:
            pruner = PrunerBox[module2type(module)]
            pruner.pruning_dim = -1
            prune = pruner.prune_out_channels if side == "out" else pruner.prune_in_channels
            prune(module, list(indices))
            if isinstance(module, nn.modules.instancenorm._InstanceNorm):
                _remove_statistics(module, indices)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(asks[name])
        parameter.grad = None


def hide_channels(model: nn.Module, channels: Mapping[LayerDim, Collection[int]]) -> nn.Module:
    """Return a copy of full size in which no layer reads the channels.

    It computes what the model without them computes, as long as nothing but layers with weights
    looks at several channels at once.
    """
    twin = copy.deepcopy(model)
    for (name, side), indices in channels.items():
        module = None if side == "number" else _get(twin, name)
        if side == "in" and isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            _zero_inputs(module, indices)
        if side in ("product", "scaled product"):
            assert isinstance(module, nn.Linear), f"{name} is a linear layer"
            module.weight.detach()[list(indices)] = 0
            if module.bias is not None:
                module.bias.detach()[list(indices)] = 0
    return twin


def _scale(layer: nn.Module | nn.Parameter, side: str, gone: int) -> None:
    """Make up for a division by the root of a width that is smaller now."""
    assert isinstance(layer, nn.Linear), "queries, keys and values are linear layers"
    left = layer.in_features if side == "unscaled" else layer.out_features
    # The product changes by the root of the widths' ratio; queries and keys take half of it each.
    root = (left / (left + gone)) ** 0.25
    if side == "scaled product":
        layer.weight.detach().mul_(root)
        if layer.bias is not None:
            layer.bias.detach().mul_(root)
    elif side == "unscaled":
        layer.weight.detach().div_(root)


def _zero_inputs(layer: nn.Linear | nn.modules.conv._ConvNd, indices: Collection[int]) -> None:
    weight, groups = layer.weight.detach(), getattr(layer, "groups", 1)
    if getattr(layer, "transposed", False):
        weight = weight.transpose(0, 1)  # never grouped: those are not followed
    size = weight.shape[1]
    for group, rows in enumerate(weight.chunk(groups)):
        # Inputs are numbered over all of the layer's groups, and a row holds its own group's only.
        rows[:, [index % size for index in indices if index // size == group]] = 0


def _remove_grouped_inputs(layer: nn.modules.conv._ConvNd, indices: Collection[int]) -> None:
    """Remove input channels, in each group its own: they need not stand at the same place."""
    size = layer.in_channels // layer.groups
    rows = layer.weight.detach().chunk(layer.groups)
    kept = []
    for group, weight in enumerate(rows):
        gone = {index - group * size for index in indices}
        kept.append(weight[:, [i for i in range(size) if i not in gone]])
    layer.weight = nn.Parameter(torch.cat(kept))
    layer.in_channels -= len(indices)


def _remove_statistics(norm: nn.Module, indices: Collection[int]) -> None:
    # torch-pruning leaves those of an instance norm as they were.
    for name in ("running_mean", "running_var"):
        full = getattr(norm, name)
        if full is not None:
            kept = [i for i in range(len(full)) if i not in set(indices)]
            setattr(norm, name, full[kept])


def _remove_from_parameter(
    model: nn.Module, layer_dim: LayerDim, parameter: nn.Parameter, indices: Collection[int]
) -> None:
    dim = _dimension(layer_dim.side)
    kept = [i for i in range(parameter.shape[dim]) if i not in set(indices)]
    owner, _, own = layer_dim.layer.rpartition(".")
    narrow = parameter.detach().index_select(dim, torch.tensor(kept, device=parameter.device))
    setattr(model.get_submodule(owner), own, nn.Parameter(narrow))


def _dimension(side: str) -> int:
    """Return which dimension of a parameter without a layer a side is, e.g. "dimension 1"."""
    return int(side.removeprefix("dimension "))


def _get(model: nn.Module, name: str) -> nn.Module | nn.Parameter:
    owner, _, own = name.rpartition(".")
    found = getattr(model.get_submodule(owner), own)
    assert isinstance(found, nn.Module | nn.Parameter), f"{name} has channels"
    return found
