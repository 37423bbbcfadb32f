"""Loss specs: the losses of a recipe, checked and ready to be called."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from kdeploy import registry
from kdeploy.distill.schedules import Constant, Schedule, is_schedule, schedule_of
from kdeploy.errors import RecipeError

LAYERS: TypeAdapter[dict[str, str]] = TypeAdapter(Annotated[dict[str, str], Field(min_length=1)])
TEMPERATURE = "temperature"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSpec:
    """One loss with its weight, its own parameters and, for features, its pairs of layers."""

    name: str
    """The component's name in the history: the loss's, numbered when it is there twice."""
    function: Callable[..., Any]
    """The loss; or the class of one, see `is_module`."""
    weight: Schedule
    parameters: Mapping[str, Any]
    temperature: Schedule | None = None
    """Where it changes; else it is among the parameters."""
    layers: Mapping[str, str]
    """Paths of the student to paths of the teacher; empty for a loss on logits."""
    needs: str = "logits"
    adapt: bool = False
    needs_labels: bool = False
    of_items: bool = False
    """Whether it compares items with each other."""
    wants_layers: bool = False
    """Whether it takes layers by itself, as soon as the two models are known."""

    @property
    def is_module(self) -> bool:
        """Whether it trains weights or remembers: a class, not a function."""
        return isinstance(self.function, type)

    def facts(self) -> dict[str, Any]:
        """Return what decides its value, as plain values."""
        return {
            "name": self.name,
            "weight": repr(self.weight),
            "parameters": dict(self.parameters),
            "temperature": repr(self.temperature),
            "layers": dict(self.layers),
        }


def loss_specs_of(losses: Sequence[Mapping[str, Mapping[str, Any] | None]]) -> tuple[LossSpec, ...]:
    """Return the specs of `[{name: {parameters, weight, layers}}]`.

    Raises:
        UnknownName: a loss or a key that does not exist.
        RecipeError: a value of the wrong type or out of range.
    """
    loss_specs: list[LossSpec] = []
    for index, entry in enumerate(losses):
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise RecipeError(
                f"losses[{index}]: expected one loss, found `{entry!r}`",
                hint="write `- {kd: {temperature: 4.0}}`",
            )
        ((name, given),) = entry.items()
        loss_spec = _loss_spec(name, dict(given or {}), where=f"losses[{index}]")
        if not any(loss_spec.weight.values()):
            logger.warning("losses[%d].%s has weight 0 and is left out", index, name)
            continue
        same = sum(other.name.split("#")[0] == name for other in loss_specs)
        loss_specs.append(replace(loss_spec, name=f"{name}#{same + 1}") if same else loss_spec)
    return tuple(loss_specs)


def checked_weight(given: Any, *, where: str) -> Schedule:
    """Return a weight, a number >= 0 or a schedule of such numbers.

    Raises:
        RecipeError: a value that is negative or no number.
        UnknownName: a schedule that does not exist.
    """
    schedule = schedule_of(given, where=where)
    if min(schedule.values()) < 0:
        raise RecipeError(f"{where}: a weight is a number >= 0, found `{given!r}`", hint=_WEIGHTS)
    return schedule


def checked_parameters(
    parameters: tuple[registry.Parameter, ...], given: Mapping[str, Any], *, where: str
) -> tuple[dict[str, Any], Schedule | None]:
    """Return a loss's own parameters resolved, and the schedule of its temperature if it has one.

    Raises:
        UnknownName: a key or schedule that does not exist.
        RecipeError: a value out of range, at whatever time.
    """
    if not is_schedule(given.get(TEMPERATURE)):
        return registry.validate(parameters, given, where=where), None
    schedule = schedule_of(given[TEMPERATURE], where=f"{where}.{TEMPERATURE}")
    for value in schedule.values():
        resolved = registry.validate(parameters, {**given, TEMPERATURE: value}, where=where)
    return {**resolved, TEMPERATURE: schedule.at(0.0)}, schedule


def _loss_spec(name: str, given: dict[str, Any], *, where: str) -> LossSpec:
    known = registry.find("loss", name, where=where)
    where = f"{where}.{name}"
    weight = checked_weight(given.pop("weight", 1.0), where=f"{where}.weight")
    needs = str(known.facts.get("needs", "logits"))
    of_items = bool(known.facts.get("of_items", False))
    layers = given.pop("layers", None) if needs != "logits" else {}
    wants_layers = needs != "logits" and layers is None and not known.facts.get("tokens", False)
    layers = _layers(layers, f"{where}.layers") if needs != "logits" and not wants_layers else {}
    parameters, temperature = checked_parameters(known.parameters, given, where=where)
    return LossSpec(
        name=name,
        function=known.load(),
        weight=weight,
        parameters=parameters,
        temperature=temperature,
        layers=layers,
        needs=needs,
        adapt=bool(known.facts.get("adapt", False)),
        needs_labels=bool(known.facts.get("labels", False)),
        of_items=of_items,
        wants_layers=wants_layers,
    )


def _layers(given: Any, where: str) -> dict[str, str]:
    try:
        return LAYERS.validate_python(given)
    except ValidationError as error:
        message = error.errors()[0]["msg"].lower()
        raise RecipeError(f"{where}: {message}, found `{given!r}`", hint=_WEIGHTS) from None


_WEIGHTS = (
    "`weight` is a number >= 0; `layers` are pairs of modules, "
    'e.g. `{"layer3": "layer3"}` (student: teacher)'
)
NOTHING = Constant(value=0.0)
