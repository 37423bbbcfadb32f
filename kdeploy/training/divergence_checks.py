"""When a training is to be stopped: what its losses say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isfinite

import torch
from torch import nn

from kdeploy.errors import TrainingDiverged
from kdeploy.training.defaults import Settled
from kdeploy.training.processes import ALONE, Processes
from kdeploy.training.states import part_of

LARGEST_WEIGHT = 1e10  # float32 still holds its square; no useful weight is near it


def check_finite(losses: Mapping[str, float], epoch: int, settings: Settled) -> None:
    """Raise TrainingDiverged when a component is no finite number."""
    for name, value in losses.items():
        if not isfinite(value):
            raise TrainingDiverged(
                f"the loss component `{name}` became {value} in epoch {epoch + 1} "
                f"of {settings.epochs}",
                hint=_calmer(settings),
            )


def check_weights(
    model: nn.Module, epoch: int, settings: Settled, processes: Processes = ALONE
) -> None:
    """Raise TrainingDiverged when the last steps threw weights out of every sensible range.

    The losses of an epoch do not show its last step.
    """
    trained = {name: part_of(p.detach()) for name, p in model.named_parameters() if p.numel()}
    # Of divided weights a process may hold nothing.
    largest = [p.abs().max().float() if p.numel() else p.new_zeros(()) for p in trained.values()]
    for found in processes.gathered(torch.stack(largest).tolist()):
        for name, value in zip(trained, found, strict=True):
            if not value < LARGEST_WEIGHT:
                raise TrainingDiverged(
                    f"the largest weight of `{name}` became {value:.3g} in epoch {epoch + 1} "
                    f"of {settings.epochs}",
                    hint=_calmer(settings),
                )


def check_used(
    losses: Mapping[str, float],
    epoch: int,
    settings: Settled,
    *,
    may_be_zero: Collection[str],
) -> None:
    """Raise TrainingDiverged when a component that should teach was zero all epoch."""
    for name, value in losses.items():
        if value == 0 and name not in may_be_zero:
            raise TrainingDiverged(
                f"the loss component `{name}` was exactly zero over all of epoch {epoch + 1} "
                f"of {settings.epochs}: it teaches nothing",
                hint="relations between items need two of them: set `batch_size: 2` or more"
                if settings.batch_size == 1
                else f"check the weight and the layers of `{name}`, or leave it out",
            )


def _calmer(settings: Settled) -> str:
    return (
        f"lower `learning_rate` (now {settings.learning_rate:g}), set `clip_norm: 1.0` or add "
        "`warmup_epochs: 1`"
    )
