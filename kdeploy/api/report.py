"""`kdeploy.report`: compare runs, also of several machines, or with an older version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdeploy.api.comparison import Comparison
from kdeploy.gate import parse_gates
from kdeploy.report.run import comparison


def report(
    results: str | Path | Sequence[str | Path],
    *,
    baseline: str | None = None,
    gates: Sequence[str] = (),
    against: str | Path | None = None,
    out: str | Path | None = None,
) -> Comparison:
    """Return the comparison of folders of results.

    Args:
        results: Folders of runs, folders of such folders, or `measurements.jsonl` files.
        baseline: Label or id to compare with; left out, the teacher.
        gates: What the best of each device must hold.
        against: Results of an older version: what got worse, and better.
        out: A file to write it to; its name says the format.
    """
    listed = [results] if isinstance(results, str | Path) else list(results)
    drawn = comparison(
        [Path(path) for path in listed],
        baseline=baseline,
        gates=parse_gates(list(gates)),
        against=None if against is None else Path(against),
    )
    made = Comparison(drawn=drawn, records=drawn.records)
    if out is not None:
        made.report(out)
    return made
