"""The trials of a search as a table, `trials.csv`: a row a trial, a column a key and a metric."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from kdeploy.search.settings import Settings
from kdeploy.search.trials import Trial


def write_trials_csv(path: Path, trials: Sequence[Trial], settings: Settings) -> None:
    """Replace the table in one step; values are in the units in which they are stored."""
    keys = [d.key for d in settings.space.dimensions]
    metrics = list(
        dict.fromkeys([*settings.section.objectives, *(m for t in trials for m in t.values)])
    )
    gates = list(dict.fromkeys(g for t in trials for g in t.gates))
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "number",
                "state",
                *keys,
                *metrics,
                *(f"missed: {g}" for g in gates),
                "short",
                "seconds",
                "saved_seconds",
                "reason",
            ]
        )
        for trial in trials:
            writer.writerow(
                [
                    trial.number,
                    trial.state,
                    *(_text(trial.parameters.get(k)) for k in keys),
                    *(trial.values.get(m, "") for m in metrics),
                    *(trial.gates.get(g, "") for g in gates),
                    "" if trial.short is None else trial.short,
                    trial.seconds,
                    trial.saved_seconds,
                    trial.reason,
                ]
            )
    partial.replace(path)


def _text(value: object) -> object:
    return value if isinstance(value, str | int | float) else json.dumps(value)
