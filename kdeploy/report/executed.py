"""What each file ran as, operator by operator: what the runtime itself told after opening it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdeploy.report.comparison import Comparison

# A page is for people; `proofs.json` of the run has all of it.
MOST_TABLES, MOST_ROWS = 24, 200
OPERATOR_HEADERS = ("operator", "how many")


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """The table of one file in one runtime."""

    title: str
    note: str
    """What ran it, and how long the table is."""
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def executed_tables(comparison: Comparison) -> list[Executed]:
    """Return a table a file and runtime, of its layers where the runtime tells them."""
    several = len(comparison.runs) > 1
    found = [
        _table(proof, run.name if several else "")
        for run in comparison.runs
        for proof in run.proofs
    ]
    return [table for table in found if table.rows][:MOST_TABLES]


def _table(proof: Mapping[str, Any], run: str) -> Executed:
    layers = proof.get("layers") or []
    headers = tuple(dict.fromkeys(key for layer in layers for key in layer)) or OPERATOR_HEADERS
    rows = [tuple(str(layer.get(key, "")) for key in headers) for layer in layers]
    if not layers:
        counts = (proof.get("operators") or {}).items()
        rows = [(str(n), str(c)) for n, c in sorted(counts, key=lambda item: (-item[1], item[0]))]
    profile = f" (profile {proof['profile']})" if proof.get("profile") else ""
    shown = f", {MOST_ROWS} of them here" if len(rows) > MOST_ROWS else ""
    what = "layers" if layers else "kinds of operators"
    return Executed(
        title=f"{proof['label']}{profile} in {proof['runtime']}" + (f", {run}" if run else ""),
        note=f"{proof.get('provider', '')}; {len(rows)} {what}{shown}",
        headers=headers,
        rows=tuple(rows[:MOST_ROWS]),
    )
