"""What a student is taught where a recipe names no losses: what its task usually teaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdeploy.data.contract import TaskReference
from kdeploy.distill.default_weights import DEFAULT_LABEL_WEIGHT, usual_losses
from kdeploy.errors import RecipeError
from kdeploy.tasks.contract import facts_of, is_own

CLASSES = TaskReference()


def usually_taught(given: Any, task: TaskReference) -> Any:
    """Return the section of a distillation with what its task usually teaches, if it names none."""
    usual = usual_losses(task.name)
    if task == CLASSES or not usual or not isinstance(given, Mapping) or "losses" in given:
        return taught(given, task)
    return {"label_weight": DEFAULT_LABEL_WEIGHT, **given, "losses": list(usual)}


def taught(given: Any, task: TaskReference) -> Any:
    """Return a section on teaching with the task's own loss where it names none."""
    usual = str(facts_of(task.name)["loss"])
    if task == CLASSES or not isinstance(given, Mapping) or "losses" in given:
        return given
    if is_own(task.name):
        raise RecipeError(
            f"`{task.name}` is a task of your own, and nothing says what is distilled of it",
            hint="name `losses`, e.g. `losses: [mse]`; `losses: []` learns from labels alone",
        )
    return {**given, "losses": [{usual: {}}]}
