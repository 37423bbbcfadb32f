"""Latencies as bars from zero with their intervals, by device and runtime."""

from __future__ import annotations

from dataclasses import dataclass

from kdeploy.report.comparison import OFFLINE, Comparison, Row
from kdeploy.report.devices import runtime_of
from kdeploy.report.machine_facts import short_names
from kdeploy.report.wording import interval, quantity, task

METRIC = "latency.p50"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One row: its latency and interval in microseconds, and both as text."""

    row: Row
    series: int
    value: float
    low: float
    high: float
    text: str
    interval: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BarGroup:
    """The bars of one runtime on one machine."""

    heading: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What shares one scale: everything that was asked to do the same."""

    heading: str
    groups: tuple[BarGroup, ...]

    @property
    def high(self) -> float:
        """Return where the scale ends."""
        return max(bar.high for group in self.groups for bar in group.bars)


def panels_of(comparison: Comparison) -> list[Panel]:
    """Return a panel for each batch size, input and scenario; the series is the runtime."""
    names = short_names(comparison.machines)
    series = series_of(comparison)
    found: dict[str, dict[tuple[str, str], list[Bar]]] = {}
    for row in comparison.rows:
        if row.number(METRIC) is not None and row.scenario != OFFLINE:
            group = (names[row.machine], runtime_of(row))
            bar = _bar(row, series.index(row.runtime or "no runtime"))
            found.setdefault(task(row), {}).setdefault(group, []).append(bar)
    several = len(names) > 1
    return [
        Panel(
            heading=heading,
            groups=tuple(
                BarGroup(
                    heading=f"{runtime} on {machine}" if several else runtime, bars=tuple(bars)
                )
                for (machine, runtime), bars in groups.items()
            ),
        )
        for heading, groups in found.items()
    ]


def series_of(comparison: Comparison) -> tuple[str, ...]:
    """Return the runtimes, each of which has one colour all over the page."""
    return tuple(dict.fromkeys(row.runtime or "no runtime" for row in comparison.rows))


def _bar(row: Row, series: int) -> Bar:
    value = row.values[METRIC]
    record = value.record
    middle = float(record.value or 0.0)
    return Bar(
        row=row,
        series=series,
        value=middle * 1e6,
        low=(middle if record.low is None else record.low) * 1e6,
        high=(middle if record.high is None else record.high) * 1e6,
        text=quantity(middle, record.unit),
        interval=interval(value),
    )
