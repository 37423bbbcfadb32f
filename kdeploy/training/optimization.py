"""Optimizers, and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.training.defaults import Settled
from kdeploy.training.states import is_divided

# Of Smith and Topin, arXiv:1708.07120, with the values of torch's OneCycleLR.
ONE_CYCLE_RISE = 0.3
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = ONE_CYCLE_START / 1e4


def optimizer_of(model: nn.Module, settings: Settled) -> torch.optim.Optimizer:
    """Return the optimizer over all parameters that are trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ModelError(
            "nothing to train: no parameter of the model requires a gradient",
            hint="train for 0 epochs, or unfreeze a part of the model in its build function",
        )
    # Fused: one kernel instead of hundreds; 2-4 % of a step of a small network on CPU.
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            trained,
            lr=settings.learning_rate,
            betas=(settings.momentum, 0.999),  # torch's default second
            weight_decay=settings.weight_decay,
            fused=True,
        )
    sgd = torch.optim.SGD(
        trained,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay,
        # Of divided parameters torch 2.13 has the fused step of AdamW alone.
        fused=not any(map(is_divided, trained)),
    )
    # Fused, torch 2.13 fails at a first gradient that comes after those of others: a loss whose
    # weight starts at 0. From 0 the first step is the same.
    for parameter in trained if settings.momentum else ():
        sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def learning_rate_at(step: int, steps: int, settings: Settled) -> float:
    """Return the learning rate of a step of the whole training, `steps` to an epoch."""
    last = settings.epochs * steps
    warmup = settings.warmup_epochs * steps
    peak = settings.learning_rate
    if settings.schedule == "one_cycle":
        return peak * _one_cycle(step, last, warmup or ONE_CYCLE_RISE * last)
    if step < warmup:
        return peak * (step + 1) / warmup if step + 1 < warmup else peak
    if settings.schedule == "constant":
        return peak
    return peak * (1 + math.cos(math.pi * (step - warmup) / max(last - warmup, 1))) / 2


def _one_cycle(step: int, last: int, rise: float) -> float:
    # As torch counts it: the peak is step `rise - 1`, the last step `last - 1`.
    if step <= rise - 1:
        return _cosine_between(ONE_CYCLE_START, 1.0, step / max(rise - 1, 1))
    return _cosine_between(1.0, ONE_CYCLE_END, (step - rise + 1) / max(last - rise, 1))


def _cosine_between(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2
