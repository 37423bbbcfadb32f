"""The space that is searched where a recipe names none: what usually pays, for the model at hand.

The student's width and depth, whether and how far it is pruned, whether it becomes INT8, and
whether the teacher helps at all: distillation can hurt a student, and INT8 a narrow one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdeploy.errors import InputError
from kdeploy.recipe.resolve import Recipe
from kdeploy.store.references import ModelReference, build_model

WIDTHS = ("width", "hidden", "dim", "filters", "planes", "features", "channels")
DEPTHS = ("depth", "layers", "blocks")
NOT_SIZES = ("in_", "out_", "input", "output", "class")
"""Parts of names of arguments that the data decide."""
RECOVERY_SHARE = 0.5
"""Of the student's epochs, for what finds back after pruning."""


def default_space(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a space for the recipe, as `search.space` would have it."""
    return {**_student(recipe), **_distill(recipe, given), **_compress(recipe, given)}


def _student(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return sizes of the student that its function takes."""
    if recipe.student is None:
        return {}
    found = {}
    for name, value in recipe.student.args.items():
        options = _sizes(name, value)
        able = [v for v in options if _builds(recipe.student, name, v)]
        if len(able) > 1:
            found[f"student.args.{name}"] = {"choice": able}
    return found


def _sizes(name: str, value: Any) -> list[int]:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        return []
    if any(part in name for part in NOT_SIZES):
        return []
    if any(part in name for part in DEPTHS):
        return sorted({max(1, value - 1), value, value + 1})
    if any(part in name for part in WIDTHS):
        # Kernels work on blocks of 4 and 8 channels.
        sizes = {max(4, round(value * share / 4) * 4) for share in (0.5, 0.75, 1.0, 1.5)}
        return sorted({*sizes, value})
    return []


def _builds(student: ModelReference, name: str, value: int) -> bool:
    args = {**student.args, name: value}
    try:
        build_model(ModelReference(build=student.build, args=args, folder=student.folder))
    except (InputError, ValueError, TypeError, RuntimeError, AssertionError):
        return False
    return True


def _distill(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    section = given.get("distill")
    if recipe.distill is None or not isinstance(section, Mapping):
        return {}
    found: dict[str, dict[str, Any]] = {}
    rate = section.get("learning_rate")
    if isinstance(rate, int | float):
        found["distill.learning_rate"] = {"range": [rate / 4, rate * 4], "log": True}
    if section.get("losses") and not recipe.distill.scheme_parameters:
        found["distill.losses"] = {"choice": [section["losses"], []]}
    return found


def _compress(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    written = given.get("compress")
    if recipe.teacher.is_file and recipe.student is None:
        return {"compress": {"choice": [[], [{"int8_ptq": {}}]]}}
    if not written:
        recover = _recovery(recipe)
        pruned = [
            {"prune_channels": {"target": {"macs": share}, **recover}} for share in (0.7, 0.5, 0.3)
        ]
        int8: dict[str, Any] = {"int8_ptq": {}}
        choices = [[], [int8], *([p] for p in pruned), *([p, int8] for p in pruned)]
        return {"compress": {"choice": choices}}
    found: dict[str, dict[str, Any]] = {}
    for place, entry in enumerate(written):
        found[f"compress.{place}"] = {"choice": [entry, None]}
        parameters = entry.get("prune_channels") if isinstance(entry, Mapping) else None
        if isinstance(parameters, Mapping) and (parameters.get("target") or {}).get("macs"):
            key = f"compress.{place}.prune_channels.target.macs"
            found[key] = {"range": [0.25, 0.9]}
    return found


def _recovery(recipe: Recipe) -> dict[str, Any]:
    config = recipe.distill
    if config is None or config.epochs is None:
        return {"recover": {"epochs": 5}}
    batch = {} if config.batch_size is None else {"batch_size": config.batch_size}
    return {"recover": {"epochs": max(1, round(RECOVERY_SHARE * config.epochs)), **batch}}
