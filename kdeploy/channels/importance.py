"""How much a model would miss its channels.

The score of channels that go together is the mean over the layers' sides that they have weights
in, divided by the mean of all like them, so that layers can be compared (Fang et al., CVPR 2023,
arXiv:2301.12900, section 3.3).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdeploy.channels.coupling import Slot, Unit

Values = Mapping[Slot, Sequence[float]]
"""One number for each channel of a layer's side."""


def magnitude(model: nn.Module, *, power: int) -> Values:
    """Return the sum of |weight|**power of each channel.

    Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710 (power 1).
    """
    powers = {name: weight.detach().abs().pow(power) for name, weight in _weights(model).items()}
    return {slot: sums.tolist() for slot, sums in _by_channel(model, powers).items()}


def taylor(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Values:
    """Return the mean over batches of (sum of weight * gradient)**2 of each channel.

    The first-order change of the loss, were the channel zero: Molchanov et al., Importance
    Estimation for Neural Network Pruning, CVPR 2019, arXiv:1906.10771.

    Args:
        model: In eval mode, all its weights asking for gradients; those are dropped afterwards.
        batches: Inputs and labels.
    """
    totals: dict[Slot, Tensor] = {}
    count = 0
    for x, labels in batches:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]
        count += 1
        products = {
            name: weight.detach() * weight.grad
            for name, weight in _weights(model).items()
            if weight.grad is not None
        }
        for slot, sums in _by_channel(model, products).items():
            totals[slot] = totals.get(slot, torch.zeros(())) + sums.square()
    model.zero_grad(set_to_none=True)
    return {slot: (total / count).tolist() for slot, total in totals.items()}


def score(units: Sequence[Unit], values: Values) -> list[float]:
    """Return the score of each unit; those of like units have the mean 1."""
    plain = [_plain_score(unit, values) for unit in units]
    families = defaultdict(list)
    for unit, number in zip(units, plain, strict=True):
        families[unit.family].append(number)
    means = {family: fmean(numbers) or 1.0 for family, numbers in families.items()}
    return [number / means[unit.family] for unit, number in zip(units, plain, strict=True)]


def _plain_score(unit: Unit, values: Values) -> float:
    """Return the mean over the sides, for one channel of the unit."""
    sums = [
        sum(values[slot][index] for index in indices)
        for slot, indices in unit.channels.items()
        if slot in values
    ]
    return fmean(sums) / unit.width if sums else 0.0


def _weights(model: nn.Module) -> dict[str, Tensor]:
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


def _by_channel(model: nn.Module, numbers: Mapping[str, Tensor]) -> dict[Slot, Tensor]:
    """Return the sums over all but the channels of tensors of the weights' shapes."""
    sums = {}
    for name, tensor in numbers.items():
        layer = model.get_submodule(name)
        if tensor.dim() == 1:
            sums[Slot(name, "out")] = tensor
            continue
        groups = getattr(layer, "groups", 1)
        table = tensor.flatten(2).sum(2) if tensor.dim() > 2 else tensor
        table = table.T if getattr(layer, "transposed", False) and groups == 1 else table
        sums[Slot(name, "out")] = table.sum(1)
        sums[Slot(name, "in")] = torch.cat([rows.sum(0) for rows in table.chunk(groups)])
    return sums
