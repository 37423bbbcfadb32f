"""The Pareto front of accuracy and latency, and what of too many rows is shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf

from kdeploy.report.comparison import Comparison, Row

# A page of so many rows stays under 6 MB and opens at once; the csv has all of them.
MOST_ROWS = 400


def front(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that no other is both faster and more accurate than, the fastest first."""
    measured = [row for row in rows if row.number("latency.p50") and _accuracy(row) > -inf]
    found: list[Row] = []
    for row in sorted(measured, key=lambda row: (_latency(row), -_accuracy(row))):
        # Sorted by latency: what is not more accurate than the last one is dominated by it.
        if not found or _accuracy(row) > _accuracy(found[-1]):
            found.append(row)
    return found


def shortened(comparison: Comparison, most: int = MOST_ROWS) -> Comparison:
    """Return the comparison with its `most` telling rows, in their order; none is left by chance.

    The headline, the best configurations and what is gone wrong of each first: its fastest
    row, its baseline, its Pareto front, then the rest by latency, one of each in turn.
    """
    if len(comparison.rows) <= most:
        return comparison
    configurations: dict[tuple[object, ...], list[Row]] = {}
    for row in comparison.rows:
        configurations.setdefault(row.configuration, []).append(row)
    chosen = [comparison.headline] if comparison.headline else []
    ranks = {id(row): -1 for row in (*chosen, *(choice.row for choice in comparison.best))}
    for members in configurations.values():
        for rank, row in enumerate(_by_interest(members)):
            ranks.setdefault(id(row), rank)
    kept = {id(row) for row in sorted(comparison.rows, key=lambda row: ranks[id(row)])[:most]}
    rows = tuple(row for row in comparison.rows if id(row) in kept)
    return replace(comparison, rows=rows, num_left_out=len(comparison.rows) - most)


def _by_interest(rows: Sequence[Row]) -> list[Row]:
    on_front = {id(row) for row in front(rows)}
    fastest = min(rows, key=_latency)

    def place(row: Row) -> tuple[bool, bool, bool, float]:
        return (row is not fastest, not row.is_baseline, id(row) not in on_front, _latency(row))

    return sorted(rows, key=place)


def _latency(row: Row) -> float:
    value = row.number("latency.p50")
    return inf if value is None else value


def _accuracy(row: Row) -> float:
    value = row.number("accuracy.top1")
    return -inf if value is None else value
