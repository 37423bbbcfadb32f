"""The steps of an artefact's history, as the markdown and the page show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdeploy.report.comparison import LineageStep
from kdeploy.report.step_table import tables_of_step
from kdeploy.report.wording import NOTHING, points, settings
from kdeploy.units import format_quantity, format_seconds

LEAST_SPARSITY = 0.01  # below it zeros are chance


def step_rows(steps: Sequence[LineageStep]) -> list[dict[str, Any]]:
    """Return the steps of a lineage as strings, each with its change against the step before.

    Under `said` stands what the step itself has to say.
    """
    return [
        {
            "step": ": ".join(part for part in (step.stage, step.technique) if part) or step.label,
            "label": step.label,
            "settings": settings(step.parameters),
            "parameters": _fact(step, before, "parameters", "count"),
            "macs": _fact(step, before, "macs", "count"),
            "size": _fact(step, before, "size", "B"),
            "sparsity": _fact(step, None, "sparsity", "fraction") if _is_sparse(step) else NOTHING,
            "accuracy": _score(step, before),
            "time": _time(step),
            "said": tables_of_step(step.facts),
        }
        for before, step in zip([None, *steps], steps, strict=False)
    ]


def _fact(step: LineageStep, before: LineageStep | None, name: str, unit: str) -> str:
    value = step.facts.get(name)
    if value is None:
        return NOTHING
    old = before.facts.get(name) if before else None
    shown = format_quantity(float(value), unit)
    return f"{shown} ({(value / old - 1) * 100:+.1f} %)" if old and old != value else shown


def _score(step: LineageStep, before: LineageStep | None) -> str:
    value = step.scores.get("validation_accuracy")
    if value is None:
        return NOTHING
    old = before.scores.get("validation_accuracy") if before else None
    untrained = step.scores.get("validation_accuracy_unrecovered")
    if step.scores.get("validation_seen_before"):
        old = None  # a difference to a number that says little
    notes = [points(value - old)] if old is not None else []
    if step.scores.get("validation_seen"):
        notes.append("may have been trained on these items")
    if untrained is not None:
        notes.append(f"{format_quantity(float(untrained), 'fraction')} before recovery")
    shown = format_quantity(float(value), "fraction")
    return f"{shown} ({', '.join(notes)})" if notes else shown


def _is_sparse(step: LineageStep) -> bool:
    """Say whether so many weights are zero that someone made them so."""
    return float(step.facts.get("sparsity") or 0.0) >= LEAST_SPARSITY


def _time(step: LineageStep) -> str:
    if step.is_cached:
        return "cached"
    return NOTHING if step.wall_time_seconds is None else format_seconds(step.wall_time_seconds)
