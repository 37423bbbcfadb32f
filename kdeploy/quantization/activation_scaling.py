"""AWQ: let weights that meet large inputs be large, so that rounding in blocks costs them less.

Lin et al., AWQ, MLSys 2024, arXiv:2306.00978. The weights of an input channel are multiplied by a
power of the channel's size, and what makes the channel is divided by it: the factor of a norm, or
the rows of a linear layer before a product. The model computes the same, and nothing is added to
it. The power is the one that costs the outputs least, of a grid from 0 to below 1; a channel's size
is its root mean square.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from kdeploy.quantization.block_rounding import BlockFormat, grid_of
from kdeploy.quantization.placement import kind_of
from kdeploy.quantization.unshared_parameters import Layer, own_layers, own_parameters
from kdeploy.torch_module.input_gram import input_grams

aten = torch.ops.aten
NORMS = (aten.layer_norm.default, aten.rms_norm.default)
STEPS = 20
"""Powers that are tried: 0, 1/20, ... 19/20."""
LOOKED_AT = 256
"""Rows of a weight, spread evenly, whose error chooses the power."""
SMALLEST = 1e-4
"""Size of a channel, as a share of the largest: one that is always zero has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalable:
    """A tensor that linear layers alone read, and the parameters that its channels come from."""

    makers: Sequence[Tensor]
    """Each (channels, ...): to be divided along the first dimension."""
    readers: Sequence[Layer]

    @property
    def layers(self) -> list[str]:
        return [reader.name.removesuffix(".weight") for reader in self.readers]


def find_scalable(graph_module: GraphModule, model: nn.Module) -> list[Scalable]:
    """Return what can be scaled, in the order of the graph.

    Args:
        graph_module: A capture of `model`.
        model: Holds the parameters.
    """
    own, layers = own_parameters(graph_module, model), own_layers(graph_module, model)
    linear = {n: layer for n, layer in layers.items() if kind_of(n) == "linear"}
    found = []
    for node in dict.fromkeys(n.args[0] for n in linear):
        if not isinstance(node, Node) or any(user not in linear for user in node.users):
            continue
        if makers := _makers(node, own, linear):
            found.append(Scalable(makers=makers, readers=[linear[user] for user in node.users]))
    return found


def scale_activations(
    model: nn.Module,
    found: Iterable[Scalable],
    forms: Mapping[str, BlockFormat],
    batches: Callable[[], Iterable[Tensor]],
) -> dict[str, float]:
    """Scale a model's weights in place; return the power that was chosen, by the first layer.

    Args:
        model: In eval mode, float. What it computes stays, to rounding.
        found: Of this model.
        forms: How layers will be written; what has a reader without one is left as it is.
        batches: Returns the calibration data, asked once.
    """
    chosen = [one for one in found if all(name in forms for name in one.layers)]
    grams = input_grams(model, batches(), [one.layers[0] for one in chosen])
    powers = {}
    for one in chosen:
        first = one.layers[0]
        if first not in grams:  # it never ran
            continue
        weights = {n: r.weight for n, r in zip(one.layers, one.readers, strict=True)}
        gram = grams.pop(first)[0]
        powers[first], factor = best_power(weights, gram, {n: forms[n] for n in weights})
        for tensor in one.makers:
            tensor.detach().div_(factor.reshape(-1, *(1 for _ in tensor.shape[1:])))
        for reader in one.readers:
            reader.scale_inputs(factor.to(reader.weight))
    return powers


def best_power(
    weights: Mapping[str, Tensor], gram: Tensor, forms: Mapping[str, BlockFormat]
) -> tuple[float, Tensor]:
    """Return the power that costs the outputs least, and the factor (channels,) by it.

    Args:
        weights: Of all that read the channels, (rows, channels) each.
        gram: (channels, channels), the mean of x x^T over what they are given.
        forms: How each is written.
    """
    looked_at = {n: w.detach().float().cpu() for n, w in weights.items()}
    looked_at = {n: w[:: max(1, len(w) // LOOKED_AT)] for n, w in looked_at.items()}
    tried = [(step / STEPS, channel_factor(gram, step / STEPS)) for step in range(STEPS)]

    def cost(factor: Tensor) -> float:
        return sum(_error(w, factor, gram, forms[n]) for n, w in looked_at.items())

    return min(tried, key=lambda one: cost(one[1]))


def channel_factor(gram: Tensor, power: float) -> Tensor:
    """Return size ** power of each channel, brought to 1 in the geometric middle of its range."""
    size = gram.diagonal().clamp(min=0).sqrt()
    largest = size.max()
    if not float(largest) > 0:
        return torch.ones_like(size)
    raised = (size / largest).clamp(min=SMALLEST) ** power
    return raised / (raised.max() * raised.min()).sqrt()


def _error(weight: Tensor, factor: Tensor, gram: Tensor, form: BlockFormat) -> float:
    """Return the mean square by which outputs move: trace(D H D^T)."""
    scaled = weight * factor
    grid = grid_of(scaled, form.for_columns(weight.shape[1]))
    difference = grid.real(grid.codes_of(scaled)) / factor - weight
    return float(((difference @ gram) * difference).sum())


def _makers(node: Node, own: Mapping[str, Tensor], linear: Mapping[Node, Layer]) -> list[Tensor]:
    """Return the parameters that the channels of a tensor are proportional to."""
    if node.target in NORMS:
        given = [a for a in node.args[2:4] if isinstance(a, Node)]
        affine = [own[str(a.target)] for a in given if str(a.target) in own]
        # A factor and an offset, both of this norm alone.
        return affine if affine and len(affine) == len(given) else []
    if node.target is not aten.mul.Tensor:
        return []
    for one in node.args[:2]:
        if not isinstance(one, Node) or len(one.users) > 1:
            continue
        if one in linear:
            bias = linear[one].bias
            return [linear[one].weight, *([] if bias is None else [bias])]
        factor = own.get(str(one.target)) if one.op == "get_attr" else None
        if factor is not None and factor.dim() == 1:
            return [factor]
    return []
