"""How much a model would miss its channels, told by its weights alone.

The score of channels that go together is the mean over the layers' sides that they have values
in, divided by the mean of all like them, so that layers can be compared (Fang et al., CVPR 2023,
arXiv:2301.12900, section 3.3).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from types import MappingProxyType

import torch
from torch import Tensor, nn

from kdeploy.pruning.coupling import LayerDim, PruningGroup

Values = Mapping[LayerDim, Sequence[float]]
"""One number for each channel of a layer's side."""
NOTHING: Values = MappingProxyType({})


def magnitude(model: nn.Module, *, power: int) -> Values:
    """Return the sum of |weight|**power of each channel.

    Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710 (power 1).
    """
    powers = {name: weight.detach().abs().pow(power) for name, weight in weights(model).items()}
    return {layer_dim: sums.tolist() for layer_dim, sums in by_channel(model, powers).items()}


def batch_norm_scale(model: nn.Module) -> Values:
    """Return |gamma| of each channel of each batch norm.

    Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017,
    arXiv:1708.06519.
    """
    return {
        LayerDim(name, "out"): weight.detach().abs().tolist()
        for name, weight in weights(model).items()
        if isinstance(model.get_submodule(name), nn.modules.batchnorm._BatchNorm)
    }


def fpgm(model: nn.Module) -> Values:
    """Return the sum of Euclidean distances of each filter to all others of its layer.

    The filter nearest to the geometric median is the one that the others replace best: He et al.,
    Filter Pruning via Geometric Median, CVPR 2019, arXiv:1811.00250, equation 8.
    """
    found = {}
    for name, weight in weights(model).items():
        layer = model.get_submodule(name)
        if weight.dim() > 1:
            turned = weight.transpose(0, 1) if outputs_are_second(layer) else weight
            filters = turned.detach().flatten(1)
            found[LayerDim(name, "out")] = torch.cdist(filters, filters).sum(1).tolist()
    return found


def score(
    groups: Sequence[PruningGroup], values: Values, *, otherwise: Values = NOTHING
) -> list[float]:
    """Return the score of each group; those of like groups have the mean 1.

    Args:
        groups: What is scored.
        values: Of channels.
        otherwise: Taken for the groups of which `values` knows no side.
    """
    plain = [_plain_score(group, values if knows(values, group) else otherwise) for group in groups]
    families = defaultdict(list)
    for group, number in zip(groups, plain, strict=True):
        families[group.family].append(number)
    # A family of zeros keeps its zeros: all of them are equally unimportant.
    means = {family: fmean(numbers) or 1.0 for family, numbers in families.items()}
    return [number / means[group.family] for group, number in zip(groups, plain, strict=True)]


def knows(values: Values, group: PruningGroup) -> bool:
    """Tell whether there are values of any side of a group."""
    return any(layer_dim in values for layer_dim in group.channels)


def _plain_score(group: PruningGroup, values: Values) -> float:
    """Return the mean over the sides, for one channel of the group."""
    sums = [
        sum(values[layer_dim][index] for index in indices)
        for layer_dim, indices in group.channels.items()
        if layer_dim in values
    ]
    return fmean(sums) / group.width if sums else 0.0


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of all layers that have channels, by the layer's name."""
    layers = (
        nn.Linear,
        nn.modules.conv._ConvNd,
        nn.modules.batchnorm._BatchNorm,
        nn.LayerNorm,
        nn.GroupNorm,
    )
    return {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, layers) and module.weight is not None
    }


def by_channel(model: nn.Module, numbers: Mapping[str, Tensor]) -> dict[LayerDim, Tensor]:
    """Return the sums over all but the channels of tensors of the weights' shapes."""
    sums = {}
    for name, tensor in numbers.items():
        layer = model.get_submodule(name)
        if tensor.dim() == 1:
            sums[LayerDim(name, "out")] = tensor
            continue
        table = tensor.flatten(2).sum(2) if tensor.dim() > 2 else tensor
        table = table.T if outputs_are_second(layer) else table
        sums[LayerDim(name, "out")] = table.sum(1)
        groups = getattr(layer, "groups", 1)
        # The rows of one of the layer's groups read the inputs of that group alone.
        sums[LayerDim(name, "in")] = torch.cat([rows.sum(0) for rows in table.chunk(groups)])
    return sums


def outputs_are_second(layer: nn.Module) -> bool:
    """Tell whether a weight is (inputs, outputs, ...); grouped, a transposed one is neither."""
    return getattr(layer, "transposed", False) and getattr(layer, "groups", 1) == 1
