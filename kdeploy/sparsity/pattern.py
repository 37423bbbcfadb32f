"""Two of four: of every four weights in a row that is summed, at most two are not zero.

Mishra et al., Accelerating Sparse Deep Neural Networks, 2021, arXiv:2104.08378. A convolution runs
as a matrix product whose inner dimension is (kernel positions, input channels), channels last; so
its groups of four lie along the input channels, one kernel position after another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdeploy.sparsity.layers import is_depthwise, layers_with_weights, weight_of
from kdeploy.sparsity.zeros import zeros_of

# What tells a pattern that was broken from zeros that never had one: half the weights or a little
# more are zero, and nearly all groups hold. Of random zeros at 60 %, 82 % of the groups would.
NEARLY = 0.9
MOST_ZEROS = 0.6
# Below, sparse tensor cores rarely win: TensorRT issues 3849 and 4065.
WORTHWHILE_CHANNELS = 256


def rows_that_run(weight: Tensor) -> Tensor:
    """Return a weight as the matrix that runs: (outputs, kernel positions x input channels)."""
    # (outputs, inputs, height, width) -> (outputs, height, width, inputs)
    return weight.movedim(1, -1).flatten(1)


def weight_from_rows(rows: Tensor, weight: Tensor) -> Tensor:
    """Return such a matrix in the shape of a weight."""
    return rows.view(weight.movedim(1, -1).shape).movedim(-1, 1)


def order_that_runs(weight: Tensor) -> Tensor:
    """Return where the columns of `rows_that_run` are in `weight.flatten(1)`."""
    numbers = torch.arange(weight[0].numel()).view(1, *weight.shape[1:])
    return rows_that_run(numbers)[0]


def best_two_of_four(importance: Tensor) -> Tensor:
    """Return where the two most important of each four in a row are; of equals, the first."""
    fours = importance.reshape(*importance.shape[:-1], -1, 4)
    order = fours.argsort(dim=-1, descending=True, stable=True)
    kept = torch.zeros_like(fours, dtype=torch.bool).scatter_(-1, order[..., :2], True)
    return kept.flatten(-2)


def held_groups(weight: Tensor) -> float:
    """Return the fraction of the groups of four with at most two that are not zero."""
    fours = rows_that_run(weight).reshape(-1, 4)
    return float((fours.count_nonzero(-1) <= 2).double().mean())


def two_four_layers(model: nn.Module) -> tuple[str, ...]:
    """Return the layers of which every group of four holds the pattern."""
    layers = layers_with_weights(model)
    return tuple(name for name, layer in layers.items() if _share(layer) == 1)


def check_two_four(model: nn.Module) -> None:
    """Raise AssertionError unless a layer has the pattern, and none has it in part."""
    shares = {name: _share(layer) for name, layer in layers_with_weights(model).items()}
    broken = [
        f"`{name}` ({1 - share:.2%} of its groups)"
        for name, share in shares.items()
        if NEARLY <= share < 1 and zeros_of(weight_of(model.get_submodule(name))) <= MOST_ZEROS
    ]
    assert not broken, f"more than two of four weights are not zero in {', '.join(broken[:3])}"
    assert 1 in shares.values(), "no layer has at most two of each four weights"


def reason_to_stay_dense(layer: nn.Module, multiple: int) -> str | None:
    """Return why no sparse kernel takes a layer, or None."""
    if is_depthwise(layer):
        return "depthwise: one input channel for each output"
    if getattr(layer, "groups", 1) > 1:
        return "grouped convolution"
    outputs, inputs = weight_of(layer).shape[:2]
    odd = [f"{n} {what}" for n, what in ((inputs, "inputs"), (outputs, "outputs")) if n % multiple]
    return f"{' and '.join(odd)}, no multiple of {multiple}" if odd else None


def _share(layer: nn.Module) -> float:
    """Return the fraction of groups that hold; 0 where four inputs are no group."""
    weight = weight_of(layer)
    is_grouped = getattr(layer, "groups", 1) > 1
    return 0.0 if is_grouped or not weight.numel() or weight.shape[1] % 4 else held_groups(weight)
