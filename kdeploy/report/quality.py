"""Language models: perplexity over the rate of decoding, and over the size of the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdeploy.report.axes import Axis, Tick, linear_axis, log_axis
from kdeploy.report.bars import series_of
from kdeploy.report.comparison import Comparison, Row
from kdeploy.report.machine_facts import short_names
from kdeploy.report.plot import MOST_LABELS, Mark, Plot, bounds_of, labelled
from kdeploy.report.wording import quantity, where

QUALITY, RATE, SIZE = "perplexity", "generate.decode_rate", "size"
OF_LANGUAGE_MODELS = ("agreement.next_token", "divergence.next_token", RATE)
"""Other tasks of tokens have a perplexity too, and a plot of their accuracy."""
RADIUS = 8.0  # pixels
BINARY = (2.0**30, 2.0**20, 2.0**10)
MANY_TIMES = 20.0  # apart: only a logarithmic axis tells the better ones from one another then
LEAST_PART = 0.05  # of the highest perplexity that the axis spans


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityPlot:
    """Perplexity over one metric; `better` is the side of the plot where that is best."""

    title: str
    x_title: str
    better: str
    plot: Plot
    of_files: bool
    """Whether a mark is a file in a runtime, whatever it was asked to do."""


def quality_plots(comparison: Comparison) -> list[QualityPlot]:
    """Return the plots for which both metrics of a language model were measured."""
    names = [m for row in comparison.rows for m in OF_LANGUAGE_MODELS if row.number(m) is not None]
    if not names:
        return []
    drawn = (
        (RATE, "Perplexity and speed", "decode rate, log scale (right is better)", "right"),
        (SIZE, "Perplexity and size", "size of the file, log scale (left is better)", "left"),
    )
    return [
        QualityPlot(title=title, x_title=axis, better=side, plot=plot, of_files=metric == SIZE)
        for metric, title, axis, side in drawn
        if (plot := _plot(comparison, metric)) is not None
    ]


def _plot(comparison: Comparison, metric: str) -> Plot | None:
    places = _places(comparison.rows, metric)
    if not places:
        return None
    rows = [comparison.rows[i] for i in places]
    unit = rows[0].values[metric].record.unit
    x_axis = log_axis([end for row in rows for end in bounds_of(row, metric)])
    y_axis = _axis_of_quality([end for row in rows for end in bounds_of(row, QUALITY)])
    series = series_of(comparison)
    machines = short_names(comparison.machines)
    marks = []
    for i, row in zip(places, rows, strict=True):
        machine = machines[row.machine] if len(machines) > 1 else ""
        text = _text(row, metric, machine)
        mark = _mark(i, row, (metric, x_axis), y_axis, series=series, text=text)
        marks.append(mark)
    named = _named(rows)
    return Plot(
        marks=tuple(labelled(marks, [row.label * (i in named) for i, row in enumerate(rows)])),
        x_ticks=_ticks(x_axis, unit),
        y_ticks=y_axis.ticks(lambda value: f"{value:g}"),
        series=series,
        left_out=0,
    )


def _ticks(axis: Axis, unit: str) -> tuple[Tick, ...]:
    """Return the grid at values that are round in the unit that people read."""
    scale = next((s for s in BINARY if s <= axis.high / 2), 1.0) if unit == "B" else 1.0
    shown = Axis(low=axis.low / scale, high=axis.high / scale, is_log=True)
    return shown.ticks(lambda value: quantity(value * scale, unit))


def _places(rows: Sequence[Row], metric: str) -> list[int]:
    """Return the rows that are drawn; of a file in a runtime, whose size is one, the first."""
    found: dict[tuple[str | int, ...], int] = {}
    for i, row in enumerate(rows):
        if (row.number(QUALITY) or 0.0) > 0 and (row.number(metric) or 0.0) > 0:
            file = (row.run, row.artifact, row.label, row.profile, row.runtime, row.machine)
            found.setdefault(file if metric == SIZE else (i,), i)
    return list(found.values())


def _axis_of_quality(ends: Sequence[float]) -> Axis:
    if max(ends) > MANY_TIMES * min(ends):
        return log_axis(ends)
    least = LEAST_PART * max(ends)
    return linear_axis(ends, least=least, margin=least / 5)


def _text(row: Row, metric: str, machine: str) -> str:
    place = f"{where(row)}, {machine}" if machine else where(row)
    value = quantity(row.number(metric), row.values[metric].record.unit)
    what = {RATE: "decodes", SIZE: "size"}[metric]
    teacher = " (the baseline)" if row.is_baseline else ""
    quality = quantity(row.number(QUALITY), "")
    return f"{row.label}{teacher} on {place}: perplexity {quality}, {what} {value}"


def _named(rows: Sequence[Row]) -> set[int]:
    """Return which of the rows have a label: each file once; of a crowd, the baseline first."""
    first: dict[str, int] = {}
    for i, row in sorted(enumerate(rows), key=lambda item: not item[1].is_baseline):
        first.setdefault(row.label, i)
    return set(list(first.values())[:MOST_LABELS])


def _mark(
    index: int,
    row: Row,
    x_axis: tuple[str, Axis],
    y_axis: Axis,
    *,
    series: Sequence[str],
    text: str,
) -> Mark:
    metric, axis = x_axis
    x, x_low, x_high = bounds_of(row, metric)
    y, y_low, y_high = bounds_of(row, QUALITY)
    return Mark(
        row=index,
        x=axis.at(x),
        x_low=axis.at(x_low),
        x_high=axis.at(x_high),
        y=100 - y_axis.at(y),
        y_low=100 - y_axis.at(y_low),
        y_high=100 - y_axis.at(y_high),
        radius=RADIUS,
        series=series.index(row.runtime or "no runtime"),
        measured=row,
        text=text,
        is_baseline=row.is_baseline,
        is_packaged=row.is_packaged,
    )
