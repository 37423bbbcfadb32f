"""Zeros that become more and more while a network trains.

Zhu and Gupta, To prune, or not to prune, 2017, arXiv:1710.01878.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from kdeploy.sparsity.choice import WeightRanking, set_zeros
from kdeploy.sparsity.zeros import HeldZeros

UPDATES = 100  # choices on the way to the final sparsity


class GradualZeros:
    """A constraint on a training: ever more of the least important weights are zero, and stay so.

    What was chosen stands in the weights: as zeros come first in each choice, one that is made
    again after an interruption chooses what it had chosen.
    """

    def __init__(
        self, names: Iterable[str], *, choice: WeightRanking, sparsity: float, reached_at: float
    ) -> None:
        """Bring the named weights to `sparsity` at the part `reached_at` of the training."""
        self.names = tuple(names)
        self.choice, self.sparsity, self.reached_at = choice, sparsity, reached_at
        ranked = f"{choice.scope}{', by input norms' if choice.norms else ''}"
        aim = f"{sparsity} at {reached_at} of the training ({ranked})"
        self.fingerprint = f"gradual zeros: {aim}: {', '.join(self.names)}"
        self._held = HeldZeros(self.names)

    def begin(self, model: nn.Module) -> None:
        """See the weights, with the zeros that a training before an interruption made."""
        self._model, self._update = model, -1
        self._held.begin(model)

    def after_step(self, progress: float, learning_rate: float) -> None:
        """Hold the zeros, and at the next of the updates choose more."""
        self._held.after_step(progress, learning_rate)
        # After `reached_at` the number stays the same: nothing more is chosen.
        update = min(int(progress / self.reached_at * UPDATES), UPDATES)
        if update != self._update:
            self._update = update
            fraction = sparsity_at(update / UPDATES, self.sparsity)
            set_zeros(self._model, self.names, self.choice, fraction)
            self._held.begin(self._model)


def sparsity_at(progress: float, final: float) -> float:
    """Return equation 1 of the paper, from no zeros on: fast at first, slower towards the end."""
    return final * (1 - (1 - progress) ** 3)
