"""Export the models as they are built, before a long training: what cannot be written is told then.

Whether a model can be traced, written in an opset or fused follows from its code, not from its
weights. A trial takes seconds; it is made where the training takes longer than that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from kdeploy import registry
from kdeploy.data.contract import Dataset
from kdeploy.errors import ModelError
from kdeploy.export.run import write_file
from kdeploy.pipeline.building import fresh_model
from kdeploy.quantization.capture import capture
from kdeploy.recipe.resolve import Recipe, Step
from kdeploy.store.artifact import find_artifact
from kdeploy.system.temporary import temporary_folder
from kdeploy.torch_module.named_inputs import tensors_of
from kdeploy.training.config import TrainingConfig
from kdeploy.training.defaults import num_epochs

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger("kdeploy.progress")
FEWEST_ITEMS = 50_000
"""Shown in all trainings: fewer are learned in about the time of a trial."""


def check_by_trial(recipe: Recipe, data: Dataset) -> None:
    """Trace and export each model of the recipe as it is built, into a folder that goes again.

    Raises:
        ModelError: it cannot be done; the message says by what, and of which model.
    """
    if items_shown(recipe, len(data.train)) < FEWEST_ITEMS:
        return
    example = tensors_of(data.preprocessing.apply(data.train.x[[0, len(data.train) - 1]]))
    for role, model in _models(recipe).items():
        is_compressed = role == "student" or recipe.student is None
        if is_compressed and any(_makes_integers(s.technique) for s in recipe.compress):
            with _named(f"INT8 of the {role}"):
                capture(model, example)
        for index, step in enumerate(recipe.export):
            _try_export(step, model, example, f"export[{index}]: `{step.technique}` of the {role}")


def _try_export(step: Step, model: nn.Module, example: Tensor, where: str) -> None:
    technique = registry.find("exporter", step.technique)
    if not technique.facts.get("portable", True):  # an engine takes minutes
        return
    with _named(where), temporary_folder("trial") as folder:
        path = Path(folder) / f"model{technique.facts['suffix']}"
        write_file(model, technique, step.parameters, example, path)


def items_shown(recipe: Recipe, num_items: int) -> int:
    """Return how many items all trainings of a recipe show."""
    configs = [recipe.distill, *(step.recover for step in recipe.compress)]
    trained: list[TrainingConfig] = [config for config in configs if config is not None]
    if recipe.teacher.weights is None:
        trained.append(recipe.teacher.training)
    return sum(num_epochs(config, num_items) for config in trained) * num_items


def _models(recipe: Recipe) -> dict[str, nn.Module]:
    """Return the models that are built here; a file, or one that is stored, was exported before."""
    reference, models = recipe.teacher.reference, {}
    if not recipe.teacher.is_file and find_artifact(reference.build) is None:
        models["teacher"] = fresh_model(reference, recipe.seed).eval()
    if recipe.student is not None:
        models["student"] = fresh_model(recipe.student, recipe.seed).eval()
    return models


def _makes_integers(technique: str) -> bool:
    made = str(registry.find("compressor", technique).facts.get("makes") or "")
    return made.startswith("int8")


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say what is tried, and begin the message with it where it fails."""
    log.info("trying %s", what)
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{what}, as it is built: {error.message}", hint=error.hint) from error
