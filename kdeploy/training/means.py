"""The means of an epoch's loss components, added up on the device and read once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kdeploy.training.processes import Processes


class Means:
    """Weighted sums of components whose names stay the same all through an epoch."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums = torch.zeros(0)
        self.last = torch.zeros(0)

    def add(self, components: Mapping[str, Tensor], weight: float) -> None:
        """Take in the components of one batch that stands for `weight` items."""
        self.last = torch.stack(list(components.values())).detach()
        if not self.names:
            self.names, self.sums = list(components), torch.zeros_like(self.last)
        self.sums.add_(self.last, alpha=weight)

    def newest(self) -> dict[str, float]:
        """Return the components of the last batch."""
        return dict(zip(self.names, self.last.tolist(), strict=True))

    def over(self, items: int, processes: Processes) -> dict[str, float]:
        """Return the means over the items of all processes; the device is waited for here."""
        sums = processes.add_up(self.sums)
        return dict(zip(self.names, (sums / items).tolist(), strict=True))
