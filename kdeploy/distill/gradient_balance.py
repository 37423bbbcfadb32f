"""Losses scaled by what they do to the student's gradient, not by their values.

A loss is small or large for reasons that have nothing to do with how much it teaches: its units,
the temperature, the width of a layer. So where no weights are given, every loss of the teacher's
gets the factor that brings the norm of its gradient into a band around that of the labels. Inside
of the band it stays as it is. Related: Chen et al., ICML 2018, arXiv:1711.02257, who train such
factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

BAND = (0.5, 2.0)
"""The norm of what the teacher's losses ask for together, over that of the labels."""
EVERY = 64
"""Steps between two looks, each of a backward pass a loss."""
FIRST = (4, 16)
"""Steps of further looks, while most changes."""
MEMORY = 0.8
"""What stays of an average of norms at each look."""
LARGEST = 1e6
"""The largest factor: a loss whose gradient is 0 stays at 0."""
LABELS = "labels"


class GradientBalance(nn.Module):
    """The factors of some losses; its averages are part of the checkpoint.

    Args:
        names: Of the losses that are scaled; each gets an equal share of the band.
        band: Smallest and largest ratio of all of them together to the labels.
    """

    norms: Tensor
    """Averages of the gradients' norms: of the labels, then of each loss; 0 until seen."""

    def __init__(self, names: Sequence[str], band: tuple[float, float] = BAND) -> None:
        super().__init__()
        self.names = tuple(names)
        self.band = band
        self.register_buffer("norms", torch.zeros(1 + len(self.names)))

    @staticmethod
    def is_due(step: int) -> bool:
        """Return whether the gradients are looked at in a step, counted from 0."""
        return step >= 0 and (step % EVERY == 0 or step in FIRST)

    def look(self, values: Mapping[str, Tensor], trained: Sequence[Tensor]) -> None:
        """Take in the gradients of the losses, unscaled, and of the weighted labels.

        Not at the logits, where it would cost nothing: what soft targets ask for of the items of a
        batch points one way, and adds up in the weights to several times more than labels do.

        Args:
            values: Scalars by name, `labels` and all losses that are scaled.
            trained: The student's parameters.
        """
        found = torch.stack([_norm(values[name], trained) for name in (LABELS, *self.names)])
        # A first average of 0 would take some 14 looks to be forgotten (0.8**14 is 4 %).
        is_first = self.norms == 0
        mixed = MEMORY * self.norms + (1 - MEMORY) * found.to(self.norms)
        self.norms.copy_(torch.where(is_first, found.to(self.norms), mixed))

    def factors(self) -> dict[str, Tensor]:
        """Return what each loss is multiplied by; 1 where nothing is known yet."""
        # The norm of a sum is at most the sum of the norms: all together stay below the upper end.
        low, high = (bound / max(len(self.names), 1) for bound in self.band)
        labels, own = self.norms[0], self.norms[1:]
        ratio = own / labels
        wanted = ratio.clamp(low, high) / ratio
        is_known = torch.isfinite(wanted) & (labels > 0) & (own > 0)
        factors = torch.where(is_known, wanted.clamp(max=LARGEST), torch.ones_like(wanted))
        return dict(zip(self.names, factors.unbind(), strict=True))


def _norm(value: Tensor, trained: Sequence[Tensor]) -> Tensor:
    if not value.requires_grad:
        return torch.zeros((), device=value.device)
    # Not `backward`: it would add to the gradients that the step itself collects.
    found = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
    norms = [g.float().norm() for g in found if g is not None]
    return torch.stack(norms).norm() if norms else torch.zeros((), device=value.device)
