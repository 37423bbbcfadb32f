"""What may differ between the candidates of a search: keys of a recipe, each a choice or a range.

A candidate is a whole recipe: the one that was given, with a value put in for each key of the
space, in the way of `--set`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from kdeploy import registry
from kdeploy.errors import InputError, RecipeError, UnknownName
from kdeploy.measurement import METRICS
from kdeploy.recipe.read import overridden
from kdeploy.recipe.resolve import Recipe, parse
from kdeploy.recipe.sections import SearchSection

Point: TypeAlias = dict[str, Any]
"""A value for each key of a space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of several values, of any kind that a recipe has; null leaves a step out."""

    key: str
    options: tuple[Any, ...]

    @property
    def is_ordered(self) -> bool:
        """Whether the options are numbers, of which near ones are alike."""
        numbers = [o for o in self.options if isinstance(o, int | float) and o is not True]
        return len(self.options) > 2 and len(numbers) == len(self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A number between two, both included."""

    key: str
    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def is_integer(self) -> bool:
        return all(isinstance(v, int) for v in (self.low, self.high, self.step or 1))


Dimension: TypeAlias = Choice | Range


class _Choice(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    choice: list[Any] = Field(min_length=1)


class _Range(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    range: tuple[int | float, int | float]
    log: bool = False
    step: int | float | None = Field(None, gt=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A recipe, and what of it may differ."""

    dimensions: tuple[Dimension, ...]
    given: Mapping[str, Any]
    """The recipe as written, after `--set` and without its `search:`."""
    folder: Path

    def document(self, point: Point) -> dict[str, Any]:
        """Return the recipe of a candidate, as somebody might have written it."""
        dropped = [key for key, value in point.items() if value is None]
        # Outer keys first: the one that puts a step in comes before those of its parameters.
        kept = sorted(
            (key for key in point if not any(key.startswith(f"{d}.") for d in dropped)),
            key=lambda key: key.count("."),
        )
        document = overridden(dict(self.given), [f"{k}={json.dumps(point[k])}" for k in kept])
        for stage in ("compress", "export"):
            if isinstance(document.get(stage), list):
                document[stage] = [entry for entry in document[stage] if entry is not None]
        return document

    def recipe(self, point: Point) -> Recipe:
        """Return the recipe of a candidate, checked.

        Raises:
            InputError: there is no such recipe: of its steps an order cannot be, and the like.
        """
        return parse(self.document(point), folder=self.folder)

    def start(self) -> Point:
        """Return the point that is nearest to the recipe as written."""
        return {d.key: _nearest(d, _written(self.given, d.key)) for d in self.dimensions}


def parse_space(given: Mapping[str, Any], *, where: str = "search.space") -> tuple[Dimension, ...]:
    """Return the dimensions that a `space:` names.

    Raises:
        RecipeError: one is neither a choice nor a range, or is empty.
    """
    return tuple(_dimension(key, entry, f"{where}.{key}") for key, entry in given.items())


def checked_space(space: Space) -> Space:
    """Return the space if each of its dimensions can be part of a recipe.

    Raises:
        InputError: a key does not exist, or takes none of the values; it is named.
    """
    start = space.start()
    for dimension in space.dimensions:
        errors = []
        for value in _extremes(dimension):
            try:
                space.recipe({**start, dimension.key: value})
                break
            except InputError as error:
                errors.append(error)
        else:
            raise RecipeError(
                f"search.space: no value of `{dimension.key}` makes a recipe: {errors[0].message}",
                hint=errors[0].hint or "see `kdeploy recipe-schema` for the keys of a recipe",
            )
    return space


def search_section(given: Any) -> SearchSection:
    """Return the checked `search:` of a recipe, or what holds where there is none."""
    section = registry.check(SearchSection, given or {}, where="search")
    for metric in section.objectives:
        if metric not in METRICS:
            raise UnknownName.among("metric", metric, METRICS, where="search.objectives")
    if len(set(section.objectives)) < len(section.objectives):
        raise RecipeError("search.objectives name a metric twice", hint="name each once")
    if not any(METRICS[m].is_judged for m in section.objectives):
        raise RecipeError(
            f"search.objectives {', '.join(section.objectives)} say nothing of how good answers "
            "are: the smallest network would win",
            hint="add one that does, e.g. `accuracy.top1`",
        )
    return section


def _dimension(key: str, entry: Any, where: str) -> Dimension:
    if isinstance(entry, Mapping) and "choice" in entry:
        return Choice(key=key, options=tuple(registry.check(_Choice, entry, where=where).choice))
    if not isinstance(entry, Mapping) or "range" not in entry:
        raise RecipeError(
            f"{where}: `{entry}` is neither a choice nor a range",
            hint="write {choice: [4, 8]} or {range: [4, 32], step: 4}",
        )
    read = registry.check(_Range, entry, where=where)
    low, high = read.range
    if not low < high or (read.log and low <= 0):
        raise RecipeError(
            f"{where}: the range {low} to {high} holds nothing to choose from",
            hint="the lower bound comes first; above 0 where `log: true`",
        )
    if read.log and read.step is not None:
        raise RecipeError(f"{where}: `log` and `step` exclude each other", hint="leave one out")
    return Range(key=key, low=low, high=high, log=read.log, step=read.step)


def _extremes(dimension: Dimension) -> Sequence[Any]:
    if isinstance(dimension, Choice):
        return dimension.options
    return (dimension.low, dimension.high)


def _written(given: Mapping[str, Any], key: str) -> Any:
    """Return what the recipe has at a key, None where it has nothing there."""
    place: Any = given
    for part in key.split("."):
        if isinstance(place, list) and part.isdecimal() and int(part) < len(place):
            place = place[int(part)]
        elif isinstance(place, Mapping):
            place = place.get(part)
        else:
            return None
    return place


def _nearest(dimension: Dimension, value: Any) -> Any:
    if isinstance(dimension, Choice):
        return value if value in dimension.options else dimension.options[0]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    inside = min(max(value, dimension.low), dimension.high) if is_number else dimension.low
    if dimension.step is not None:
        count = int((inside - dimension.low) // dimension.step)
        inside = dimension.low + count * dimension.step
    return round(inside) if dimension.is_integer else float(inside)
