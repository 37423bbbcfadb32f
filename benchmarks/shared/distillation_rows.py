"""Results of trainings, a JSON line each, and the table that compares them with no teacher."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from kdeploy.runtimes.run import this_machine

NONE = "no distillation"


def read(results: Path) -> list[dict[str, Any]]:
    """Return what a file has, nothing where there is none yet."""
    return (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )


def table(results: list[dict[str, Any]], epochs: int) -> str:
    """Return rows of `row`, `epochs` and `accuracy` as markdown: means, deviations, verdicts."""
    names = dict.fromkeys(r["row"] for r in results)
    found = {
        name: [r["accuracy"] for r in results if r["row"] == name and r["epochs"] == epochs]
        for name in names
    }
    none = found[NONE]
    lines = [
        f"Machine `{this_machine().id}`, {epochs} epochs, test accuracy, last epoch.",
        "",
        "| | test accuracy | deviation | seeds | against none |",
        "|---|---:|---:|---:|---|",
    ]
    for name, values in found.items():
        if values:
            lines.append(
                f"| {name} | {statistics.mean(values):.2%} | {_deviation(values)} | {len(values)} "
                f"| {_verdict(values, none)} |"
            )
    return "\n".join(lines) + "\n"


def _deviation(values: list[float]) -> str:
    return f"{100 * statistics.stdev(values):.2f} pp" if len(values) > 1 else "-"


def _verdict(values: list[float], none: list[float]) -> str:
    """Return the difference of the means, and whether it is more than twice its standard error."""
    if values is none or not none:
        return ""
    difference = statistics.mean(values) - statistics.mean(none)
    text = f"{100 * difference:+.2f} pp"
    if min(len(values), len(none)) < 2:
        return f"{text}, one seed"
    error = sum(statistics.variance(v) / len(v) for v in (values, none)) ** 0.5
    if abs(difference) <= 2 * error:
        return f"{text}, no difference"
    return f"{text}, {'helps' if difference > 0 else 'hurts'}"
