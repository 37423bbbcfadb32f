"""Schedules: a loss weight or a temperature as a function of how much of the training is done.

Written where a number would stand: `weight: {linear: {start: 0.9, end: 0.1}}`. "Soft labels early,
hard labels late" is a falling weight of the loss beside a rising `label_weight`. `adaptive` looks
at validation instead of the clock: what no longer helps fades (Cho and Hariharan, ICCV 2019,
arXiv:1910.01348, find that a teacher held on to for too long hurts a small student).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Annotated, Any, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdeploy.errors import RecipeError, UnknownName

Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]


class Schedule(Protocol):
    """A number that changes while training goes on."""

    def at(self, progress: float) -> float:
        """Return the value when the part `progress`, from 0 to 1, of all steps is done."""
        ...

    def values(self) -> tuple[float, ...]:
        """Return the values that bound all others, to be checked like a plain number."""
        ...


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Constant(_Shape):
    """The same all the time."""

    value: Finite

    def at(self, progress: float) -> float:
        del progress
        return self.value

    def values(self) -> tuple[float, ...]:
        return (self.value,)


class Linear(_Shape):
    """Goes straight from `start` to `end` between two parts of the training."""

    start: Finite
    end: Finite
    since: Fraction = 0.0
    until: Fraction = 1.0

    @model_validator(mode="after")
    def _in_order(self) -> Linear:
        if self.since >= self.until:
            raise ValueError(f"`since` {self.since} is not before `until` {self.until}")
        return self

    def at(self, progress: float) -> float:
        return self.start + (self.end - self.start) * self._fraction(progress)

    def values(self) -> tuple[float, ...]:
        return (self.start, self.end)

    def _fraction(self, progress: float) -> float:
        return min(max((progress - self.since) / (self.until - self.since), 0.0), 1.0)


class Cosine(Linear):
    """Goes from `start` to `end` along half a cosine, slow at both ends."""

    def at(self, progress: float) -> float:
        half = (1 - math.cos(math.pi * self._fraction(progress))) / 2
        return self.start + (self.end - self.start) * half


class WarmUp(_Shape):
    """Rises straight from 0 until the part `until` of the training, then stays."""

    value: Finite
    until: Annotated[float, Field(gt=0, le=1)] = 0.1

    def at(self, progress: float) -> float:
        return self.value * min(progress / self.until, 1.0)

    def values(self) -> tuple[float, ...]:
        return (self.value, 0.0)


class Steps(_Shape):
    """The first of `sequence`, and the next from each of the parts `at_progress` on."""

    sequence: Annotated[tuple[Finite, ...], Field(min_length=2)]
    at_progress: Annotated[tuple[Fraction, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Steps:
        if len(self.sequence) != len(self.at_progress) + 1:
            raise ValueError("`sequence` has one value more than `at_progress`")
        if list(self.at_progress) != sorted(set(self.at_progress)):
            raise ValueError("`at_progress` has to rise")
        return self

    def at(self, progress: float) -> float:
        return self.sequence[bisect_right(self.at_progress, progress)]

    def values(self) -> tuple[float, ...]:
        return self.sequence


class Adaptive(_Shape):
    """Is multiplied by `factor` after `patience` epochs without a better validation accuracy.

    The objective remembers how often that was; see `PlateauDecay`.
    """

    start: Finite
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    patience: Annotated[int, Field(ge=1)] = 2

    def at(self, progress: float) -> float:
        del progress
        return self.start

    def values(self) -> tuple[float, ...]:
        return (self.start,)


SCHEDULES: Mapping[str, type[Linear | WarmUp | Steps | Adaptive]] = {
    "adaptive": Adaptive,
    "cosine": Cosine,
    "linear": Linear,
    "step": Steps,
    "warm_up": WarmUp,
}


def schedule_of(given: Any, *, where: str) -> Schedule:
    """Return the schedule that a number, or `{name: {its keys}}`, stands for.

    Raises:
        UnknownName: there is no such schedule, or it has no such key.
        RecipeError: a value that has no sense.
    """
    if not isinstance(given, Mapping):
        constant: Schedule = _checked(Constant, {"value": given}, where)
        return constant
    if len(given) != 1:
        raise RecipeError(
            f"{where}: expected a number or one schedule, found `{given!r}`", hint=_AS
        )
    ((name, keys),) = given.items()
    if name not in SCHEDULES:
        raise UnknownName.among("schedule", str(name), SCHEDULES, where=where)
    if not isinstance(keys, Mapping):
        raise RecipeError(f"{where}.{name}: expected keys, found `{keys!r}`", hint=_AS)
    fields = SCHEDULES[name].model_fields
    for key in keys:
        if key not in fields:
            raise UnknownName.among("key", str(key), fields, where=f"{where}.{name}")
    schedule: Schedule = _checked(SCHEDULES[name], keys, f"{where}.{name}")
    return schedule


def is_schedule(given: Any) -> bool:
    """Return whether a recipe's value is a schedule rather than a number."""
    return isinstance(given, Mapping)


def _checked(kind: Any, keys: Mapping[str, Any], where: str) -> Any:
    try:
        return kind.model_validate(dict(keys))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *(str(part) for part in first["loc"] if part != "value")])
        message = first["msg"].removeprefix("Value error, ").lower()
        raise RecipeError(f"{place}: {message}, found `{first['input']!r}`", hint=_AS) from None


_AS = (
    "write a number, or a schedule, e.g. `{linear: {start: 0.9, end: 0.1}}`; "
    "also cosine, step, warm_up, adaptive"
)
