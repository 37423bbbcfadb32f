"""The steps of a range test, made by a training before its first one, and taken back."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import count
from typing import Protocol

import torch
from torch import Tensor, nn

from kdeploy.training.batches import TrainingBatches
from kdeploy.training.contract import Batch, FitContext
from kdeploy.training.defaults import Settled
from kdeploy.training.processes import Processes
from kdeploy.training.rate_range_test import RateFound, found_rate, steps_of_test
from kdeploy.training.states import unchanged
from kdeploy.training.views import View


class Trains(Protocol):
    """What of a training the test needs."""

    objective: nn.Module
    optimizer: torch.optim.Optimizer
    batches: TrainingBatches
    settings: Settled
    context: FitContext
    processes: Processes

    @property
    def steps_in_all(self) -> int:
        """How many the training makes."""
        ...

    def descend(
        self, parts: Sequence[Batch], learning_rate: float
    ) -> list[tuple[float, dict[str, Tensor]]]:
        """Make a step at a rate; return the components of its parts, each with its share."""
        ...


def sought_rate(training: Trains, view: View | None) -> RateFound:
    """Return the rate that a test on the first batches comes to, or the usual one.

    Args:
        training: Is as it was afterwards.
        view: What the first epoch shows, where that is countable.
    """
    usual, total = training.settings.learning_rate, training.steps_in_all
    if not steps_of_test(total):
        return RateFound(rate=usual, steps=0)
    training.objective.train()
    with (
        unchanged(training.objective, training.optimizer),
        closing(_endless(training, view)) as batches,
    ):
        return found_rate(usual, total, partial(_loss_of_step, training, batches))


def _endless(training: Trains, view: View | None) -> Generator[list[Batch], None, None]:
    known = training.batches
    for epoch in count():
        with closing(known.epoch([training.context.seed, epoch], view)) as found:
            yield from (known.cut(batch, place) for place, batch in enumerate(found))


def _loss_of_step(
    training: Trains, batches: Iterator[list[Batch]], number: int, rate: float
) -> float:
    """Return the loss of a step at a rate, of all processes together."""
    parts = [part._replace(step=number) for part in next(batches)]
    losses = [
        share * torch.stack(list(components.values())).sum().detach()
        for share, components in training.descend(parts, rate)
    ]
    return float(training.processes.add_up(torch.stack(losses).sum()))
