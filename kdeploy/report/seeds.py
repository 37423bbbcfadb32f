"""The accuracy over seeds: mean and standard deviation, of the student, the baseline and between.

The difference is taken seed by seed, so that what a seed does to both does not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from kdeploy.report.comparison import Comparison
from kdeploy.report.wording import points, quantity

TITLE = "Over seeds: mean ± standard deviation"
HEADERS = ("", "top-1 accuracy, test part", "seeds")


def seed_rows(comparison: Comparison) -> list[list[str]]:
    """Return a row for student and baseline of each run with seeds, and one for the difference."""
    several = len(comparison.runs) > 1
    rows = []
    for run in comparison.runs:
        place = f"{run.name}: " if several else ""
        rows += [[f"{place}{row[0]}", *row[1:]] for row in _rows(run.seeds)]
    return rows


def _rows(seeds: Mapping[str, Any]) -> list[list[str]]:
    values = {kind: [float(v) for v in seeds[kind]["accuracy"]] for kind in seeds}
    rows = [
        [kind, _shown(quantity(fmean(of), "fraction"), of), str(len(of))]
        for kind, of in values.items()
    ]
    if len(values.get("student", ())) == len(values.get("baseline", ())) > 0:
        pairs = zip(values["student"], values["baseline"], strict=True)
        apart = [student - baseline for student, baseline in pairs]
        rows.append(["student - baseline", _shown(points(fmean(apart)), apart), str(len(apart))])
    return rows


def _shown(mean: str, values: Sequence[float]) -> str:
    """Return the mean with the sample standard deviation, which one value does not have."""
    return f"{mean} ± {stdev(values) * 100:.2f} pp" if len(values) > 1 else mean
