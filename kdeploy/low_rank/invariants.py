"""What a factorised model promises: in no place more weights than the layer had that was there."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from torch import nn

from kdeploy.low_rank.layer_sites import PLAIN

# The names of the layers in the place of one, in order; `core` stands for a Tucker-2 kernel.
NAMES = (("reduce", "expand"), ("reduce", "core"), ("core", "expand"), ("reduce", "core", "expand"))


def check_factors(model: nn.Module) -> None:
    """Raise AssertionError when factors have as many weights as the layer they stand for."""
    for name, layers in factorised(model):
        weights, dense = sum(layer.weight.numel() for layer in layers), _dense_weights(layers)
        assert weights < dense, f"`{name}` has {weights} weights in the place of {dense}"


def factorised(model: nn.Module) -> Iterator[tuple[str, list[Any]]]:
    """Yield the modules that hold factors, by name, and the factors in order."""
    for name, module in model.named_modules():
        children = dict(module.named_children())
        is_named = type(module) is nn.Sequential and tuple(children) in NAMES
        if is_named and all(type(layer) in PLAIN for layer in children.values()):
            yield name, list(children.values())


def _dense_weights(layers: list[Any]) -> int:
    """Return how many weights the one layer has that computes the same."""
    first, last = layers[0].weight, layers[-1].weight
    kernels = [layer.weight.shape[2:] for layer in layers]
    # Kernels in a row reach as far as one kernel of the sum of their sizes, less one each.
    sizes = [1 + sum(size - 1 for size in dim) for dim in zip(*kernels, strict=True)]
    return int(last.shape[0] * first.shape[1] * prod(sizes))
