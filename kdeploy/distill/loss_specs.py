"""The losses of a recipe: checked once, then ready to be called."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from kdeploy import registry
from kdeploy.distill.schedules import Schedule, is_schedule, schedule_of
from kdeploy.errors import RecipeError, UnknownName
from kdeploy.tasks.contract import is_own, kin

TEMPERATURE = "temperature"
AROUND_LOSS = ("weight", "layers")
Scheduled: TypeAlias = float | dict[str, dict[str, Any]]
"""A number, or a schedule of `kdeploy.distill.schedules`: `{linear: {start: 0.9, end: 0.1}}`."""
Layers: TypeAlias = Annotated[dict[str, str], Field(min_length=1)]
logger = logging.getLogger(__name__)
CLASSES = ("classification",)


class LogitLossSection(BaseModel):
    """What every loss takes beside its own parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Scheduled | None = Field(
        None,
        description="factor of this loss in the sum; null: beside other weights 1, and where none "
        "is given its gradient is kept in a band around that of the labels",
    )


class TokenLossSection(LogitLossSection):
    """What a loss on features of tokens takes beside its own parameters."""

    layers: Layers = Field(description='pairs of modules: {"student.path": "teacher.path"}')


class FeatureLossSection(LogitLossSection):
    """What a loss on features takes beside its own parameters."""

    layers: Layers | None = Field(
        None,
        description='pairs of modules: {"student.path": "teacher.path"}; null: the classifiers\' '
        "inputs where items are compared, else the last features of each size",
    )


def tasks_of(known: registry.Technique) -> tuple[str, ...]:
    """Return the tasks that a loss says it fits; none where it fits every one."""
    is_on_outputs = known.facts.get("needs", "logits") == "logits"
    return tuple(known.facts.get("tasks", CLASSES if is_on_outputs else ()))


def check_fit(losses: Iterable[str], task: str) -> None:
    """Refuse losses that compare what the task's outputs are not.

    What the outputs of a task of the user's own are, only its class knows: every loss is taken.

    Raises:
        RecipeError: with the losses that do fit.
    """
    if is_own(task):
        return
    own = kin(task)
    for name in losses:
        fits = tasks_of(registry.find("loss", name))
        if not fits or set(fits) & set(own):
            continue
        every = registry.techniques("loss").items()
        able = [n for n, t in every if not tasks_of(t) or set(tasks_of(t)) & set(own)]
        on_outputs = [n for n in able if tasks_of(registry.find("loss", n))]
        raise RecipeError(
            f"the loss `{name}` is for {listed(fits)}, and the task is `{task}`",
            hint=f"on outputs of that task there are {listed(on_outputs) or 'none'}; on layers "
            f"{listed([n for n in able if n not in on_outputs])}",
        )


def listed(names: Iterable[str]) -> str:
    """Return names for a message."""
    return ", ".join(f"`{name}`" for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSpec:
    """One loss with its weight, its own parameters and, for features, its pairs of layers."""

    name: str
    """The component's name in the history: the loss's, numbered when it is there twice."""
    function: Callable[..., Any]
    """The loss; or the class of one, see `is_module`."""
    weight: Schedule
    is_balanced: bool = False
    """Whether its gradient is kept in a band around that of the labels."""
    parameters: Mapping[str, Any]
    temperature: Schedule | None = None
    """Where it changes; else it is among the parameters."""
    layers: Mapping[str, str]
    """Paths of the student to paths of the teacher; empty for a loss on logits."""
    needs: str = "logits"
    adapt: bool = False
    needs_labels: bool = False
    tasks: tuple[str, ...] = CLASSES
    """Whose outputs it compares; losses on features fit every task and have none."""
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


def resolved_loss(entry: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Return `{name: {parameters, weight, layers}}` with all defaults filled in.

    Raises:
        UnknownName: a loss, a key or a schedule that does not exist.
        RecipeError: a value of the wrong type or out of range, at whatever time.
    """
    name, given = registry.parse_one_key(entry, where)
    known = registry.find("loss", name, where=where)
    where = f"{where}.{name}"
    beside = {key: value for key, value in given.items() if key in AROUND_LOSS}
    around = registry.check(around_loss(known), beside, where=where).model_dump()
    own = {key: value for key, value in given.items() if key not in AROUND_LOSS}
    names = {p.name for p in known.parameters} | around.keys()
    for key in own:
        if key not in names:
            raise UnknownName.among("key", key, names, where=where)
    if around["weight"] is not None:
        checked_weight(around["weight"], where=f"{where}.weight")
    return {name: {**_parameters(known.parameters, own, where=where), **around}}


def loss_specs_of(losses: Sequence[Mapping[str, Mapping[str, Any]]]) -> tuple[LossSpec, ...]:
    """Return the specs of losses as `resolved_loss` gives them; those of weight 0 are left out."""
    loss_specs: list[LossSpec] = []
    for index, entry in enumerate(losses):
        ((name, resolved),) = entry.items()
        loss_spec = _loss_spec(name, dict(resolved))
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


def around_loss(technique: registry.Technique) -> type[LogitLossSection]:
    """Return the model of the keys that a loss takes beside its own parameters."""
    if technique.facts.get("needs", "logits") == "logits":
        return LogitLossSection
    return TokenLossSection if technique.facts.get("tokens") else FeatureLossSection


def _parameters(
    parameters: tuple[registry.Parameter, ...], given: Mapping[str, Any], *, where: str
) -> dict[str, Any]:
    """Return a loss's own parameters resolved; its temperature may be a schedule."""
    if not is_schedule(given.get(TEMPERATURE)):
        return registry.validate(parameters, given, where=where)
    schedule = schedule_of(given[TEMPERATURE], where=f"{where}.{TEMPERATURE}")
    # The values bound all others, so that the loss's own limits hold at every time.
    for value in schedule.values():
        resolved = registry.validate(parameters, {**given, TEMPERATURE: value}, where=where)
    return {**resolved, TEMPERATURE: given[TEMPERATURE]}


def _loss_spec(name: str, resolved: dict[str, Any]) -> LossSpec:
    known = registry.find("loss", name)
    weight = resolved.pop("weight", None)
    needs = str(known.facts.get("needs", "logits"))
    layers = resolved.pop("layers", None)
    temperature = None
    if is_schedule(resolved.get(TEMPERATURE)):
        temperature = schedule_of(resolved[TEMPERATURE], where=TEMPERATURE)
        # What a loss is built with; `LossBank` sets it anew in each step.
        resolved[TEMPERATURE] = temperature.at(0.0)
    return LossSpec(
        name=name,
        function=known.load(),
        weight=schedule_of(1.0 if weight is None else weight, where="weight"),
        is_balanced=weight is None,
        parameters=resolved,
        temperature=temperature,
        layers=layers or {},
        needs=needs,
        adapt=bool(known.facts.get("adapt", False)),
        needs_labels=bool(known.facts.get("labels", False)),
        tasks=tasks_of(known),
        of_items=bool(known.facts.get("of_items", False)),
        wants_layers=needs != "logits" and layers is None,
    )


_WEIGHTS = "`weight` is a number >= 0, or a schedule of such numbers"
