"""Where the marks of the accuracy-latency-size plot stand, in percent of the drawing area.

Percent, so that the page needs no script to draw, and its text keeps its size on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdeploy.report.axes import Axis, Tick, linear_axis, log_axis
from kdeploy.report.bars import series_of
from kdeploy.report.comparison import OFFLINE, Comparison, Row
from kdeploy.report.machine_facts import short_names
from kdeploy.report.pareto import front
from kdeploy.report.wording import quantity, where
from kdeploy.units import format_quantity

X, Y, AREA = "latency.p50", "accuracy.top1", "size"
LARGEST_RADIUS, SMALLEST_RADIUS = 26.0, 4.5  # pixels
# The drawing area of a desktop page in pixels; labels are kept apart for this size.
NOMINAL_WIDTH, NOMINAL_HEIGHT, LETTER_WIDTH, LINE_HEIGHT = 880.0, 380.0, 7.2, 16.0
MOST_LABELS = 12  # more would cover one another


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One row as a disc: centre, whiskers (95 % intervals), radius in pixels, label."""

    row: int
    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    radius: float
    series: int
    measured: Row
    text: str
    label: str = ""
    anchor: str = "start"
    shift_x: float = 0.0
    shift_y: float = 0.0
    is_baseline: bool = False
    is_packaged: bool = False
    is_headline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """The marks with axes; `series` are the runtimes, of which each has its colour."""

    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    series: tuple[str, ...]
    left_out: int


def plot_of(comparison: Comparison) -> Plot | None:
    """Return the plot, None when no row has both accuracy and latency."""
    drawn = [i for i, row in enumerate(comparison.rows) if _can_draw(row)]
    if not drawn:
        return None
    rows = comparison.rows
    shown = [rows[i] for i in drawn]
    x_axis, y_axis = _x_axis(shown), _y_axis(shown)
    series = series_of(comparison)
    machines = short_names(comparison.machines)
    largest = max((row.number(AREA) or 0.0 for row in shown), default=0.0)
    marks = [
        _mark(
            i,
            rows[i],
            x_axis,
            y_axis,
            radius=_radius(rows[i].number(AREA), largest),
            series=series.index(rows[i].runtime or "no runtime"),
            machine=machines[rows[i].machine] if len(machines) > 1 else "",
            is_headline=rows[i] is comparison.headline,
        )
        for i in drawn
    ]
    named = _named(comparison, shown)
    return Plot(
        marks=tuple(labelled(marks, [rows[i].label * (id(rows[i]) in named) for i in drawn])),
        x_ticks=x_axis.ticks(lambda value: format_quantity(value, "s")),
        y_ticks=tuple(t for t in y_axis.ticks(_percent) if _is_possible(t, y_axis)),
        series=series,
        left_out=len(rows) - len(drawn),
    )


def _can_draw(row: Row) -> bool:
    is_comparable = row.scenario != OFFLINE
    return is_comparable and (row.number(X) or 0.0) > 0 and row.number(Y) is not None


def _named(comparison: Comparison, shown: Sequence[Row]) -> set[int]:
    """Return the rows with a label: the headline's configuration's, of a crowd what stands out."""
    configuration = (
        comparison.headline.configuration if comparison.headline else shown[0].configuration
    )
    members = [row for row in shown if row.configuration == configuration]
    if len(members) > MOST_LABELS:
        baselines = [row for row in members if row.is_baseline]
        headline = [row for row in members if row is comparison.headline]
        members = [*headline, *baselines, *front(members)][:MOST_LABELS]
    return {id(row) for row in members}


def bounds_of(row: Row, metric: str) -> tuple[float, float, float]:
    """Return a value and the ends of its interval, itself where none is known."""
    record = row.values[metric].record
    value = float(record.value or 0.0)
    low = value if record.low is None else record.low
    high = value if record.high is None else record.high
    return value, low, high


def _x_axis(rows: Sequence[Row]) -> Axis:
    return log_axis([bound for row in rows for bound in bounds_of(row, X) if bound > 0])


def _y_axis(rows: Sequence[Row]) -> Axis:
    ends = [min(1.0, max(0.0, bound)) for row in rows for bound in bounds_of(row, Y)]
    return linear_axis(ends, least=0.02, margin=0.004)  # fractions: two points of accuracy


def _percent(fraction: float) -> str:
    return f"{fraction * 100:g} %"


def _is_possible(tick: Tick, axis: Axis) -> bool:
    """Say whether a line lies where an accuracy can be."""
    return axis.at(0.0) <= tick.at <= axis.at(1.0)


def _radius(size: float | None, largest: float) -> float:
    if not size or not largest:
        return SMALLEST_RADIUS
    return round(max(SMALLEST_RADIUS, LARGEST_RADIUS * math.sqrt(size / largest)), 2)


def _mark(
    index: int,
    row: Row,
    x_axis: Axis,
    y_axis: Axis,
    *,
    radius: float,
    series: int,
    machine: str,
    is_headline: bool,
) -> Mark:
    x, x_low, x_high = bounds_of(row, X)
    y, y_low, y_high = bounds_of(row, Y)
    place = f"{where(row)}, {machine}" if machine else where(row)
    text = (
        f"{row.label} on {place}: accuracy {quantity(y, 'fraction')}, "
        f"p50 {quantity(x, 's')}, size {quantity(row.number(AREA), 'B')}"
    )
    return Mark(
        row=index,
        x=x_axis.at(x),
        x_low=x_axis.at(max(x_low, x_axis.low)),
        x_high=x_axis.at(x_high),
        y=100 - y_axis.at(y),
        y_low=100 - y_axis.at(max(y_low, 0.0)),
        y_high=100 - y_axis.at(min(y_high, 1.0)),
        radius=radius,
        series=series,
        measured=row,
        text=text,
        is_baseline=row.is_baseline,
        is_packaged=row.is_packaged,
        is_headline=is_headline,
    )


def labelled(marks: Sequence[Mark], labels: Sequence[str]) -> list[Mark]:
    """Return the marks with their labels beside, above or below, where least is covered."""
    from dataclasses import replace

    # Discs of other batch sizes are hidden while these labels are shown.
    seen = {mark.measured.load for mark, label in zip(marks, labels, strict=True) if label}
    taken = [_disc(mark) for mark in marks if mark.measured.load in seen]
    found = []
    for mark, label in zip(marks, labels, strict=True):
        if not label:
            found.append(mark)
            continue
        gap = mark.radius + 6
        places = [
            ("start", gap, 0.0),
            ("end", -gap, 0.0),
            ("middle", 0.0, -gap - 5),
            ("middle", 0.0, gap + 9),
            ("start", gap, -LINE_HEIGHT),
            ("start", gap, LINE_HEIGHT),
            ("end", -gap, -LINE_HEIGHT),
            ("end", -gap, LINE_HEIGHT),
        ]
        # In the order of taste: of equally free places the first.
        costs = [_covered(_text_box(mark, label, *place), taken) for place in places]
        anchor, shift_x, shift_y = places[costs.index(min(costs))]
        taken.append(_text_box(mark, label, anchor, shift_x, shift_y))
        found.append(replace(mark, label=label, anchor=anchor, shift_x=shift_x, shift_y=shift_y))
    return found


_Box = tuple[float, float, float, float]


def _disc(mark: Mark) -> _Box:
    x, y = mark.x / 100 * NOMINAL_WIDTH, mark.y / 100 * NOMINAL_HEIGHT
    return (x - mark.radius, y - mark.radius, x + mark.radius, y + mark.radius)


def _text_box(mark: Mark, label: str, anchor: str, shift_x: float, shift_y: float) -> _Box:
    width = LETTER_WIDTH * len(label)
    x = mark.x / 100 * NOMINAL_WIDTH + shift_x
    x -= {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    y = mark.y / 100 * NOMINAL_HEIGHT + shift_y
    return (x, y - LINE_HEIGHT / 2, x + width, y + LINE_HEIGHT / 2)


def _covered(box: _Box, taken: Sequence[_Box]) -> float:
    """Return the area of `box` that is taken or outside, in square pixels."""
    left, top, right, bottom = box
    outside = max(0.0, -left) + max(0.0, right - NOMINAL_WIDTH)
    outside += max(0.0, -top) + max(0.0, bottom - NOMINAL_HEIGHT)
    overlaps = (
        max(0.0, min(right, b[2]) - max(left, b[0])) * max(0.0, min(bottom, b[3]) - max(top, b[1]))
        for b in taken
    )
    return outside * LINE_HEIGHT + sum(overlaps)
