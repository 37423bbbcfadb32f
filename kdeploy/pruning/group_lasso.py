"""Train channels towards zero together with all that depends on them: the group lasso.

Yuan and Lin, Journal of the Royal Statistical Society B, 2006; over the groups that can only be
removed together: Fang et al., CVPR 2023, arXiv:2301.12900, section 3.4. After each step of the
optimizer follows the proximal step of the penalty `strength * sqrt(n_g) * |w_g|`,

    w_g <- w_g * max(0, 1 - learning_rate * strength * sqrt(n_g) / |w_g|),

n_g the number of weights of a group: each step takes `learning_rate * strength` off the root mean
square of all groups alike, so that the unimportant ones end at zero. A weight between two
channels is in both their groups, and shrinks by both factors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdeploy.pruning.coupling import LayerDim, PruningGroup
from kdeploy.pruning.importance import by_channel, outputs_are_second, weights


class GroupLasso:
    """A constraint of a training.

    Args:
        groups: Of the model that is trained; what is in none keeps its weights.
        strength: By how much, times the learning rate, a step shrinks weights.
    """

    def __init__(self, groups: Sequence[PruningGroup], strength: float) -> None:
        self.fingerprint = f"group lasso {strength!r} over {len(groups)} units"
        self._groups, self._strength = groups, strength

    def begin(self, model: nn.Module) -> None:
        self._model = model
        ones = {name: torch.ones_like(weight) for name, weight in weights(model).items()}
        counts = by_channel(model, ones)
        # One more than there are groups: that of the channels in none.
        self._numbers = {
            layer_dim: torch.full_like(count, len(self._groups), dtype=torch.long)
            for layer_dim, count in counts.items()
        }
        for number, group in enumerate(self._groups):
            for layer_dim, indices in group.channels.items():
                if layer_dim in self._numbers:
                    self._numbers[layer_dim][list(indices)] = number
        self._sizes = self._of_groups(counts)

    @torch.no_grad()
    def after_step(self, progress: float, learning_rate: float) -> None:
        tensors = weights(self._model)
        squares = {name: weight.square() for name, weight in tensors.items()}
        norms = self._of_groups(by_channel(self._model, squares)).sqrt()
        shrinkage = learning_rate * self._strength * self._sizes.sqrt()
        # 1e-30: a group that is at zero has the norm 0, and stays there.
        factors = (1 - shrinkage / norms.clamp_min(1e-30)).clamp_min(0)
        factors[-1] = 1  # of the channels in no group
        for layer_dim, numbers in self._numbers.items():
            layer = self._model.get_submodule(layer_dim.layer)
            weight = tensors[layer_dim.layer]
            weight.mul_(_like_weight(weight, layer, layer_dim.side, factors[numbers]))

    def _of_groups(self, values: dict[LayerDim, Tensor]) -> Tensor:
        """Return the sums over the channels of each group, and of those in none."""
        device = next(self._model.parameters()).device
        sums = torch.zeros(len(self._groups) + 1, device=device)
        for layer_dim, numbers in self._numbers.items():
            sums.index_add_(0, numbers, values[layer_dim].float())
        return sums


def _like_weight(weight: Tensor, layer: nn.Module, side: str, factors: Tensor) -> Tensor:
    """Return one factor for each channel in a shape that multiplies the layer's weight."""
    rest = (1,) * (weight.dim() - 2)
    if weight.dim() == 1:
        return factors
    if (side == "out") != outputs_are_second(layer):
        return factors.view(-1, 1, *rest)
    # The inputs of a grouped layer: each group of rows reads its own.
    groups = getattr(layer, "groups", 1)
    return (
        factors.view(groups, -1)
        .repeat_interleave(len(weight) // groups, 0)
        .view(len(weight), -1, *rest)
    )
