"""What of a recipe needs labels, so that data without them are refused before any work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdeploy.data.contract import Dataset
from kdeploy.distill.config import DistillConfig
from kdeploy.errors import DataError
from kdeploy.recipe.resolve import Recipe, Step
from kdeploy.registry import find
from kdeploy.store.artifact import find_artifact


def check_labels(recipe: Recipe, data: Dataset) -> None:
    """Refuse a recipe that trains or judges on data without labels.

    Raises:
        DataError: it names the key that needs them.
    """
    teacher = recipe.teacher
    is_given = (
        teacher.weights is not None
        or teacher.is_file
        or find_artifact(teacher.reference.build) is not None
        or teacher.training.epochs == 0
    )
    wanting = [] if is_given else ["teacher.train"]
    does_read = recipe.distill is not None and reads_labels(recipe.distill)
    wanting += ["distill"] if does_read else []
    _refuse([*wanting, *_of_steps(recipe.compress)], data)
    if not data.test.is_labelled:
        bounds = (*recipe.gates, *(recipe.budgets or ()))
        _refuse([g.text for g in bounds if g.metric.startswith("accuracy.")], data)


def reads_labels(config: DistillConfig) -> bool:
    """Return whether a training does; not where the teacher alone says what is learned."""
    return bool(find("scheme", config.scheme_name).facts.get("reads_labels", True))


def check_labels_of_step(step: Step, data: Dataset) -> None:
    """Refuse one compression step that needs labels on data without."""
    _refuse(list(_of_steps([step])), data)


def _of_steps(steps: Sequence[Step]) -> Iterator[str]:
    for step in steps:
        own = step.parameters
        if step.recover is not None and reads_labels(step.recover):
            yield f"the training of `{step.technique}`"
        if step.max_drop is not None or own.get("max_drop") is not None:
            yield f"`max_drop` of `{step.technique}`"
        if own.get("sensitivity"):
            yield f"`sensitivity` of `{step.technique}`"


def _refuse(wanting: Sequence[str], data: Dataset) -> None:
    is_labelled = data.train.is_labelled and data.validation.is_labelled and data.test.is_labelled
    if wanting and not is_labelled:
        raise DataError(
            f"{wanting[0]} needs labels, and `{data.name}` has none",
            hint="leave it out, learn from the teacher alone (`scheme: unlabelled`), or name data "
            "with labels; items to calibrate on beside them are `unlabelled:`",
        )
