"""Adaptive weights: what they have come to, as validation went; part of the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kdeploy.distill.schedules import Adaptive, Schedule


class PlateauDecay(nn.Module):
    """Counts the epochs without a better validation accuracy, and how often each weight faded."""

    def __init__(self, schedules: Mapping[str, Schedule]) -> None:
        super().__init__()
        self.schedules = {k: s for k, s in schedules.items() if isinstance(s, Adaptive)}
        self.best = float("-inf")
        self.stale_epochs = 0
        self.times = dict.fromkeys(self.schedules, 0)

    def factor(self, name: str) -> float:
        """Return what the weight of this name is multiplied by."""
        return self.schedules[name].factor ** self.times[name] if name in self.schedules else 1.0

    def validated(self, accuracy: float) -> None:
        """Take in the validation accuracy of an epoch."""
        if accuracy > self.best:
            self.best, self.stale_epochs = accuracy, 0
            return
        self.stale_epochs += 1
        for name, schedule in self.schedules.items():
            # Not reset when it fades: every further `patience` epochs without a gain fade it once
            # more.
            self.times[name] += self.stale_epochs % schedule.patience == 0

    def get_extra_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"best": self.best, "stale_epochs": self.stale_epochs, "times": dict(self.times)}

    def set_extra_state(self, state: Any) -> None:
        """Take what a checkpoint kept."""
        self.best, self.stale_epochs = state["best"], state["stale_epochs"]
        self.times = dict(state["times"])
