"""What a compression step says of its work, as tables: layers declined, candidates measured, ...

A technique leaves plain JSON by topic. A list of rows becomes a table, keys with values a table of
two columns, anything else a line. The unit stands in a key's ending: `latency_seconds`,
`size_bytes`, `drop_fraction`, `sqnr_db`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdeploy.report.comparison import Comparison
from kdeploy.units import format_quantity

UNITS = {"seconds": "s", "bytes": "B", "fraction": "fraction"}
SENSITIVITY = "sensitivity"
"""The topic of a table a layer, which the page shows for all artefacts together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTable:
    """One topic: a table; without headers its rows are names and values."""

    topic: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_of_step(facts: Mapping[str, Any]) -> list[StepTable]:
    """Return what the facts of a step have under `report`, in its order; empty topics are left."""
    found = []
    for topic, value in (facts.get("report") or {}).items():
        table = _table(topic, value)
        if table.rows:
            found.append(table)
    return found


def _table(key: str, value: Any) -> StepTable:
    topic = _head(key)
    if isinstance(value, Mapping):
        # Of the topic's own unit, where the inner keys name none.
        unit = f"_{key.rpartition('_')[2]}"
        rows = tuple((_head(k), _shown(k if _unit(k) else k + unit, v)) for k, v in value.items())
        return StepTable(topic=topic, headers=(), rows=rows)
    if isinstance(value, list | tuple) and value and all(isinstance(v, Mapping) for v in value):
        keys = list(dict.fromkeys(key for row in value for key in row))
        return StepTable(
            topic=topic,
            headers=tuple(_head(key) for key in keys),
            rows=tuple(tuple(_shown(key, row.get(key)) for key in keys) for row in value),
        )
    if isinstance(value, list | tuple):
        return StepTable(topic=topic, headers=(), rows=tuple(("", str(item)) for item in value))
    return StepTable(topic=topic, headers=(), rows=((topic, _shown(key, value)),))


def _unit(key: str) -> str | None:
    """Return the unit that a key names."""
    return UNITS.get(str(key).rpartition("_")[2])


def _head(key: str) -> str:
    """Return a key in words, without a unit that its values show."""
    name, _, unit = key.rpartition("_")
    return _words(name if unit in UNITS and name else key)


def _words(key: str) -> str:
    return str(key).replace("_", " ")


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    unit = _unit(key)
    if isinstance(value, int | float) and unit:
        return format_quantity(float(value), unit)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(k)} {_shown(k, v)}" for k, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_shown("", item) for item in value)
    return str(value)


def layer_tables(comparison: Comparison) -> list[tuple[str, StepTable]]:
    """Return what each layer costs, a table a step that measured it, under the step's label.

    A step that several artefacts share has it once.
    """
    found: dict[str, tuple[str, StepTable]] = {}
    for lineage in comparison.lineages:
        for step in lineage.steps:
            for table in tables_of_step(step.facts):
                if table.topic == SENSITIVITY:
                    found.setdefault(step.id, (step.label or lineage.label, table))
    return list(found.values())
