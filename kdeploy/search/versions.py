"""A candidate's recipe untrained, shortly trained and whole: how far each of its trainings goes."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

from kdeploy import registry
from kdeploy.distill.config import DistillConfig
from kdeploy.recipe.resolve import Recipe, Step, step
from kdeploy.training.defaults import num_epochs

Version: TypeAlias = Literal["untrained", "short", "cut", "whole"]


def untrained(recipe: Recipe) -> Recipe:
    """Return the recipe with nothing trained: its file is as large and as fast as the trained one.

    INT8 that is learned becomes INT8 by calibration.
    """
    steps = tuple(replace(_calibrated(s), recover=None, max_drop=None) for s in recipe.compress)
    return replace(alone(recipe), compress=steps)


def shortened(recipe: Recipe, share: float, items: int) -> Recipe:
    """Return the recipe with a share of the epochs in each training, at least one."""
    distill = None if recipe.distill is None else _scaled(recipe.distill, share, items)
    steps = tuple(_scaled_step(s, share, items) for s in recipe.compress)
    return replace(alone(recipe), distill=distill, compress=steps)


def alone(recipe: Recipe) -> Recipe:
    """Return the recipe under one seed, and without a control that learns beside the student."""
    distill = recipe.distill
    if distill is not None:
        distill = distill.model_copy(update={"baseline": False})
    return replace(recipe, seeds=(), distill=distill)


def total_epochs(recipe: Recipe, items: int) -> int:
    """Return how often a candidate's own trainings show the items."""
    configs = [recipe.distill, *(s.recover for s in recipe.compress)]
    return sum(num_epochs(config, items) for config in configs if config is not None)


def _scaled(config: DistillConfig, share: float, items: int) -> DistillConfig:
    epochs = num_epochs(config, items)
    fewer = max(1, round(share * epochs)) if epochs else 0
    warm_up = config.warmup_epochs
    changed = {"epochs": fewer, "baseline": False}
    # A rise that is longer than the training would be all of it.
    risen = {} if warm_up is None else {"warmup_epochs": warm_up * fewer / max(epochs, 1)}
    return config.model_copy(update={**changed, **risen})


def _scaled_step(given: Step, share: float, items: int) -> Step:
    if given.recover is None:
        return given
    recover = _scaled(given.recover, share, items)
    own = {"epochs": recover.epochs} if "epochs" in given.parameters else {}
    return replace(given, recover=recover, parameters={**given.parameters, **own})


def _calibrated(given: Step) -> Step:
    facts = registry.find("compressor", given.technique).facts
    if not facts.get("trains") or not str(facts.get("makes") or "").startswith("int8"):
        return given
    profile = {k: v for k, v in given.parameters.items() if k == "profile"}
    return step({"int8_ptq": profile}, "compress")
