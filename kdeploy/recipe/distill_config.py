"""Resolve how a student learns: `distill:` of a recipe, `recover:` of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdeploy import registry
from kdeploy.distill.loss_specs import TEMPERATURE, checked_parameters, checked_weight
from kdeploy.errors import RecipeError, UnknownName
from kdeploy.recipe.files import placed
from kdeploy.recipe.sections import around_loss, distill_section_model
from kdeploy.units import parse_quantity

# Fine-tuning starts from learned weights: a tenth of the rate that trains from scratch.
RECOVER_DEFAULTS = {"learning_rate": 0.01}
AROUND_LOSS = ("weight", "layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillConfig:
    """One distillation, resolved."""

    scheme: str
    scheme_parameters: Mapping[str, Any]
    losses: tuple[Mapping[str, Mapping[str, Any]], ...]
    label_weight: float | Mapping[str, Any]
    training: Mapping[str, Any]
    cache_budget: str
    cache_top_k: int | None
    baseline: bool = False


def distill_config_of(
    given: Mapping[str, Any], where: str, defaults: Mapping[str, Any], folder: Path
) -> DistillConfig:
    """Return a teaching section resolved; keys left out are the `defaults`, then the usual."""
    chosen = {**defaults, **registry.mapping(given, where)}
    section = registry.check(distill_section_model(), chosen, where=where).model_dump()
    scheme = section.pop("scheme")
    name, own = single(scheme if isinstance(scheme, dict) else {scheme: {}}, f"{where}.scheme")
    parameters = registry.find("scheme", name, where=f"{where}.scheme").parameters
    own = registry.validate(parameters, own, where=f"{where}.scheme.{name}")
    losses = [_loss(e, f"{where}.losses[{i}]") for i, e in enumerate(section.pop("losses"))]
    return DistillConfig(
        scheme=name,
        scheme_parameters=placed(own, folder, f"{where}.scheme.{name}"),
        losses=tuple(losses),
        label_weight=_weight(section.pop("label_weight"), f"{where}.label_weight"),
        cache_budget=_bytes(section.pop("cache_budget"), f"{where}.cache_budget"),
        cache_top_k=section.pop("cache_top_k"),
        baseline=section.pop("baseline"),
        training=section,
    )


def _loss(entry: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    name, given = single(entry, where)
    technique = registry.find("loss", name, where=where)
    beside = {k: v for k, v in given.items() if k in AROUND_LOSS}
    around = registry.check(around_loss(technique), beside, where=f"{where}.{name}")
    own = {k: v for k, v in given.items() if k not in AROUND_LOSS}
    known = {p.name for p in technique.parameters} | set(type(around).model_fields)
    for key in own:
        if key not in known:
            raise UnknownName.among("key", key, known, where=f"{where}.{name}")
    checked, schedule = checked_parameters(technique.parameters, own, where=f"{where}.{name}")
    if schedule is not None:
        checked[TEMPERATURE] = own[TEMPERATURE]
    beside = around.model_dump()
    _weight(beside["weight"], f"{where}.{name}.weight")
    return {name: {**checked, **beside}}


def _weight(given: Any, where: str) -> Any:
    checked_weight(given, where=where)
    return given


def _bytes(given: str, where: str) -> str:
    value, unit = parse_quantity(given, where=where)
    if value < 0 or (unit != "B" and value):
        raise RecipeError(f"{where}: `{given}` is no amount of bytes", hint="e.g. `4GB`, or 0")
    return given


def single(entry: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """Return name and parameters of `{technique: {its parameters}}`."""
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise RecipeError(
            f"{where}: expected one technique with its parameters, found `{entry!r}`",
            hint="write `- technique: {key: value}`",
        )
    name, given = next(iter(entry.items()))
    if given is not None and not isinstance(given, Mapping):
        raise RecipeError(
            f"{where}.{name}: expected keys and values, found `{given!r}`",
            hint=f"write `{name}: {{key: value}}`",
        )
    return str(name), dict(given or {})
