"""The section `dynamic:` of a recipe: a kind with what it is made of, and what it may cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from kdeploy import registry
from kdeploy.dynamic.calibration import Promise
from kdeploy.errors import RecipeError
from kdeploy.recipe.sections import Section
from kdeploy.units import parse_drop


class DynamicSection(Section):
    """What early answers may cost; one further key is the kind: `cascade`, `exits`."""

    risk: str = Field("0.5pp", description="items that are wrong only because they left early")
    confidence: float = Field(0.9, gt=0, lt=1, description="that the risk is kept")


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicStep:
    """A dynamic model that is asked for."""

    technique: str
    parameters: Mapping[str, Any]
    promise: Promise

    @property
    def names(self) -> tuple[str, ...]:
        """Return the models that it names."""
        of_one = (self.parameters["model"],) if "model" in self.parameters else ()
        return tuple(self.parameters.get("parts") or of_one)

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the layers whose exits it is made of; none: all, or it is made of none."""
        return tuple(self.parameters.get("layers") or ())

    def section(self) -> dict[str, Any]:
        """Return what a recipe says for this."""
        return {
            self.technique: dict(self.parameters),
            "risk": f"{100 * self.promise.risk:g}pp",
            "confidence": self.promise.confidence,
        }


def dynamic_step(given: Mapping[str, Any], *, where: str = "dynamic") -> DynamicStep:
    """Return the step of a `dynamic:` section.

    Raises:
        RecipeError, UnknownName: it names no kind or several, or a value cannot be.
    """
    given = registry.mapping(given, where)
    own = {key: value for key, value in given.items() if key in DynamicSection.model_fields}
    kinds = [key for key in given if key not in own]
    if len(kinds) != 1:
        known = ", ".join(f"`{name}`" for name in registry.techniques("dynamic"))
        raise RecipeError(
            f"{where}: expected one kind beside `risk` and `confidence`, found "
            f"{', '.join(f'`{key}`' for key in kinds) or 'none'}",
            hint=f"kinds are {known}: `cascade: [student, teacher]`, `exits: [layer1]`",
        )
    section = registry.check(DynamicSection, own, where=where)
    technique = registry.find("dynamic", str(kinds[0]), where=where)
    value, place = given[kinds[0]], f"{where}.{technique.name}"
    # A list is the first parameter: what it is made of.
    spelled = {technique.parameters[0].name: value} if isinstance(value, list | tuple) else value
    parameters = registry.validate(technique.parameters, spelled, where=place)
    return DynamicStep(
        technique=technique.name,
        parameters=parameters,
        promise=promise(section.risk, section.confidence, where=where),
    )


def promise(risk: str, confidence: float, *, where: str) -> Promise:
    """Return the promise of a risk such as `0.5pp`.

    Raises:
        RecipeError: it is none.
    """
    share = parse_drop(risk, where=f"{where}.risk")
    if not share:
        raise RecipeError(
            f"{where}.risk: no number of items proves a risk of `{risk}`", hint="e.g. `0.5pp`"
        )
    return Promise(risk=share, confidence=confidence)
