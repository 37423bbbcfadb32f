"""Lessons: the losses of a recipe, checked and ready to be called."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from kdeploy import registry
from kdeploy.errors import RecipeError

WEIGHT: TypeAdapter[float] = TypeAdapter(Annotated[float, Field(ge=0, allow_inf_nan=False)])
LAYERS: TypeAdapter[dict[str, str]] = TypeAdapter(Annotated[dict[str, str], Field(min_length=1)])
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One loss with its weight, its own parameters and, for features, its pairs of layers."""

    name: str
    """The component's name in the history: the loss's, numbered when it is there twice."""
    function: Callable[..., Tensor]
    weight: float
    parameters: Mapping[str, Any]
    layers: Mapping[str, str]
    """Paths of the student to paths of the teacher; empty for a loss on logits."""
    adapt: bool

    def facts(self) -> dict[str, Any]:
        """Return what decides its value, as plain values."""
        return {
            "name": self.name,
            "weight": self.weight,
            "parameters": dict(self.parameters),
            "layers": dict(self.layers),
        }


def lessons_of(losses: Sequence[Mapping[str, Mapping[str, Any] | None]]) -> tuple[Lesson, ...]:
    """Return the lessons of `[{name: {parameters, weight, layers}}]`.

    Raises:
        UnknownName: a loss or a key that does not exist.
        RecipeError: a value of the wrong type or out of range.
    """
    lessons: list[Lesson] = []
    for index, entry in enumerate(losses):
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise RecipeError(
                f"losses[{index}]: expected one loss, found `{entry!r}`",
                hint="write `- {kd: {temperature: 4.0}}`",
            )
        ((name, given),) = entry.items()
        lesson = _lesson(name, dict(given or {}), where=f"losses[{index}]")
        if lesson.weight == 0:
            logger.warning("losses[%d].%s has weight 0 and is left out", index, name)
            continue
        same = sum(other.name.split("#")[0] == name for other in lessons)
        lessons.append(replace(lesson, name=f"{name}#{same + 1}") if same else lesson)
    return tuple(lessons)


def _lesson(name: str, given: dict[str, Any], *, where: str) -> Lesson:
    known = registry.find("loss", name, where=where)
    where = f"{where}.{name}"
    weight = _checked(WEIGHT, given.pop("weight", 1.0), where=f"{where}.weight")
    layers: dict[str, str] = {}
    if known.facts.get("needs") == "features":
        layers = _checked(LAYERS, given.pop("layers", None), where=f"{where}.layers")
    return Lesson(
        name=name,
        function=known.load(),
        weight=weight,
        parameters=registry.validate(known.parameters, given, where=where),
        layers=layers,
        adapt=bool(known.facts.get("adapt", False)),
    )


def _checked(kind: TypeAdapter[Any], given: Any, *, where: str) -> Any:
    try:
        return kind.validate_python(given)
    except ValidationError as error:
        message = error.errors()[0]["msg"].lower()
        raise RecipeError(
            f"{where}: {message}, found `{given!r}`",
            hint="`weight` is a number >= 0; `layers` are pairs of modules, "
            'e.g. `{"layer3": "layer3"}` (student: teacher)',
        ) from None
