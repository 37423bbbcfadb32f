"""How much the loss would move, were channels zero: told by gradients on training data."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdeploy.pruning.coupling import LayerDim
from kdeploy.pruning.importance import Values, by_channel, weights
from kdeploy.torch_module.named_inputs import call

Batches = Iterable[tuple[Tensor, Tensor]]
MOST_ITEMS = 128
"""That `hessian` should be given: it takes one backward pass for each."""


def taylor(model: nn.Module, batches: Batches) -> Values:
    """Return the mean over batches of (sum of weight * gradient)**2 of each channel.

    The first-order change of the loss, were the channel zero: Molchanov et al., Importance
    Estimation for Neural Network Pruning, CVPR 2019, arXiv:1906.10771.

    Args:
        model: In eval mode, all its weights asking for gradients; those are dropped afterwards.
        batches: Inputs and labels.
    """
    return _mean(model, batches, each=lambda w, g: w * g, then=torch.square)


def hessian(model: nn.Module, items: Batches) -> Values:
    """Return the sum of 1/2 * h * weight**2 of each channel, h the diagonal of the Hessian.

    The second-order change of the loss: LeCun et al., Optimal Brain Damage, NIPS 1989. For h
    stands the empirical Fisher information, the mean over items of the squared gradient: the two
    are the same where the model's probabilities are those of the labels. One backward pass an
    item and one gradient in memory, whatever the number of items.

    Args:
        model: As in `taylor`.
        items: Batches of one item: the square of a mean gradient would tell less.
    """
    return _mean(model, items, each=lambda w, g: (w * g).square() / 2, then=lambda sums: sums)


def _mean(
    model: nn.Module,
    batches: Batches,
    *,
    each: Callable[[Tensor, Tensor], Tensor],
    then: Callable[[Tensor], Tensor],
) -> Values:
    """Return the mean over batches of `then(sum of each(weight, gradient))` of each channel."""
    totals: dict[LayerDim, Tensor] = {}
    count = 0
    for x, labels in batches:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(call(model, x), labels).backward()  # type: ignore[no-untyped-call]
        count += 1
        numbers = {
            name: each(weight.detach(), weight.grad)
            for name, weight in weights(model).items()
            if weight.grad is not None
        }
        for layer_dim, sums in by_channel(model, numbers).items():
            totals[layer_dim] = totals.get(layer_dim, torch.zeros(())) + then(sums)
    model.zero_grad(set_to_none=True)
    return {layer_dim: (total / count).tolist() for layer_dim, total in totals.items()}
