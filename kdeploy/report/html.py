"""One self-contained page: verdict, plot, table, lineages, doubts; no network, no library."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from kdeploy import __version__
from kdeploy.report.comparison import Comparison, Row
from kdeploy.report.contract import report_format
from kdeploy.report.machine_facts import machine_facts, machine_name
from kdeploy.report.plot import plot_of
from kdeploy.report.seeds import HEADERS, TITLE, seed_rows
from kdeploy.report.sentences import (
    NOTHING,
    baseline_label,
    claims,
    gate_reason,
    interval,
    quantity,
    ratio_interval,
    state_sentence,
    times,
    verdict_sentence,
    where,
)
from kdeploy.report.steps import step_rows
from kdeploy.report.table import (
    Cell,
    Column,
    columns,
    doubt_rows,
    doubts_everywhere,
    skipped_rows,
)

TEMPLATE = "html.html.jinja"
# The cell's heading says these, so the rows below it need not.
IN_HEADING = ("runs on", "machine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The rows of one cell under their heading; `first` is the place of the first row."""

    heading: str
    machine: str
    rows: tuple[tuple[Row, tuple[Cell, ...]], ...]
    first: int


@report_format(suffix=".html")
def html(comparison: Comparison) -> str:
    """Return the page; every text of the measurements is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    environment.filters["tight"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    shown = [c for c in columns(comparison) if c.header not in IN_HEADING]
    return environment.get_template(TEMPLATE).render(
        **_head(comparison),
        plot=plot_of(comparison),
        columns=shown,
        everywhere=doubts_everywhere(comparison),
        groups=_groups(comparison, shown),
        seeds=(TITLE, HEADERS, seed_rows(comparison)),
        gates=[(g, gate_reason(g)) for run in comparison.runs for g in run.gates],
        skipped=skipped_rows(comparison),
        doubts=doubt_rows(comparison),
        lineages=[
            (line, _is_packaged(line.artifact, comparison), step_rows(line.steps))
            for line in comparison.lineages
        ],
        numbers=_numbers(comparison.rows),
        machines=[(machine_name(m, f), machine_facts(f)) for m, f in comparison.machines.items()],
        commands=list(dict.fromkeys(run.command for run in comparison.runs if run.command)),
    )


def _head(comparison: Comparison) -> dict[str, Any]:
    row = comparison.headline
    return {
        "title": ", ".join(run.name for run in comparison.runs),
        "place": "; ".join(machine_name(m, f) for m, f in comparison.machines.items()),
        "measured": max((record.created for record in comparison.records), default="")[:10],
        "version": __version__,
        "verdict": verdict_sentence(comparison),
        "state": state_sentence(comparison),
        "all_passed": all(gate.passed for run in comparison.runs for gate in run.gates),
        "headline": row,
        "headline_where": where(row) if row else "",
        "baseline_label": baseline_label(row) if row else "",
        "claims": claims(row) if row else [],
    }


def _groups(comparison: Comparison, shown: Sequence[Column]) -> list[Group]:
    found: list[Group] = []
    first = 0
    several = len(comparison.machines) > 1
    for (machine, *_), members in groupby(comparison.rows, key=lambda row: row.cell):
        rows = tuple((row, tuple(column.cell(row) for column in shown)) for row in members)
        name = machine_name(machine, comparison.machines.get(machine, {})) if several else ""
        found.append(Group(heading=where(rows[0][0]), machine=name, rows=rows, first=first))
        first += len(rows)
    return found


def _is_packaged(artifact: str, comparison: Comparison) -> bool:
    return any(run.packaged == artifact for run in comparison.runs)


def _numbers(rows: Sequence[Row]) -> list[list[str]]:
    """Return every measured number: what, where, value, interval, n, ratio, verdict, doubts."""
    return [
        [
            row.label,
            where(row),
            metric,
            quantity(value.record.value, value.record.unit),
            interval(value) or NOTHING,
            str(value.record.n),
            times(value.ratio.times) if value.ratio else NOTHING,
            ratio_interval(value) or NOTHING,
            (value.ratio.verdict if value.ratio else "") or NOTHING,
            ", ".join(value.flags) or NOTHING,
        ]
        for row in rows
        for metric, value in row.values.items()
        if value.record.value is not None
    ]


def _code(text: str) -> Any:
    """Return a text of ours with its backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
