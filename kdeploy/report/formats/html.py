"""One self-contained page: verdict, plot, table, lineages, doubts; no network, no library."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from kdeploy import __version__
from kdeploy.errors import shown
from kdeploy.report.bars import panels_of
from kdeploy.report.comparison import Comparison, Row
from kdeploy.report.contract import report_format
from kdeploy.report.decisions import (
    BEST_HEADERS,
    BEST_TITLE,
    CHANGE_HEADERS,
    MOST_GATES,
    best_rows,
    change_rows,
    change_sentence,
    gate_rows,
)
from kdeploy.report.devices import place_columns, places
from kdeploy.report.executed import executed_tables
from kdeploy.report.filters import OF_PLACE, filters_of
from kdeploy.report.kernels import HEADERS as KERNELS
from kdeploy.report.kernels import alarms, proofs
from kdeploy.report.machine_facts import machine_facts, machine_name, short_names
from kdeploy.report.next_tokens import EXAMPLE_HEADERS, differing, meaning
from kdeploy.report.next_tokens import HEADERS as TOKEN_HEADERS
from kdeploy.report.next_tokens import TITLE as TOKENS
from kdeploy.report.pareto import shortened
from kdeploy.report.plot import plot_of
from kdeploy.report.quality import quality_plots
from kdeploy.report.seeds import HEADERS, TITLE, seed_rows
from kdeploy.report.step_table import SENSITIVITY, layer_tables
from kdeploy.report.steps import step_rows
from kdeploy.report.table import (
    Cell,
    Column,
    columns,
    doubt_rows,
    doubts_everywhere,
    skipped_rows,
)
from kdeploy.report.weight_bits import TOPICS as BITS_TOPICS
from kdeploy.report.weight_bits import weight_bits
from kdeploy.report.wording import (
    MOST_NAMES,
    NOTHING,
    claims,
    gate_reason,
    interval,
    quantity,
    ratio_interval,
    short_verdict,
    state_sentence,
    times,
    title,
    where,
)

TEMPLATE = "html.html.jinja"
# The group's heading says these, so the rows below it need not.
IN_HEADING = ("runs on", "machine")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """The rows of one configuration under their heading; `first` is the place of the first row."""

    heading: str
    machine: str
    rows: tuple[tuple[Row, tuple[Cell, ...]], ...]
    first: int

    @property
    def count(self) -> int:
        return len(self.rows)


@report_format(suffix=".html")
def html(comparison: Comparison) -> str:
    """Return the page; every text of the measurements is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: shown(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    environment.filters["breakable"] = _breakable
    environment.filters["tight"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    whole, comparison = comparison, shortened(comparison)
    return environment.get_template(TEMPLATE).render(
        **_head(whole),
        **_decisions(whole),
        **_numbers_of(comparison),
        filters=filters_of(comparison),
        of_place=OF_PLACE,
        seeds=(TITLE, HEADERS, seed_rows(comparison)),
        gates=[(g, gate_reason(g)) for run in comparison.runs for g in run.gates],
        skipped=skipped_rows(comparison),
        doubts=doubt_rows(comparison),
        lineages=[
            (line, _is_packaged(line.artifact, comparison), step_rows(line.steps))
            for line in comparison.lineages
        ],
        num_left_out=comparison.num_left_out,
        machines=[
            (machine_name(m, f), machine_facts(f), comparison.pages.get(m, ""))
            for m, f in comparison.machines.items()
        ],
        commands=list(dict.fromkeys(run.command for run in comparison.runs if run.command)),
    )


def _head(comparison: Comparison) -> dict[str, Any]:
    row = comparison.headline
    return {
        "title": title(comparison),
        "place": _places(comparison),
        "measured": max((record.created for record in comparison.records), default="")[:10],
        "version": __version__,
        "verdict": short_verdict(comparison),
        "alarms": alarms(comparison),
        "state": state_sentence(comparison),
        "all_passed": all(gate.passed for run in comparison.runs for gate in run.gates),
        "claims": claims(row) if row else [],
    }


def _places(comparison: Comparison) -> str:
    names = [machine_name(machine, facts) for machine, facts in comparison.machines.items()]
    return "; ".join(names) if len(names) <= MOST_NAMES else f"{len(names)} machines"


def _decisions(comparison: Comparison) -> dict[str, Any]:
    against = comparison.against
    return {
        "best": (BEST_TITLE, BEST_HEADERS, best_rows(comparison)),
        "changed": change_sentence(against) if against else "",
        "changes": (CHANGE_HEADERS, change_rows(against, comparison.machines) if against else []),
        "judged": gate_rows(comparison),
        "most_gates": MOST_GATES,
    }


def _numbers_of(comparison: Comparison) -> dict[str, Any]:
    shown = [c for c in columns(comparison) if c.header not in IN_HEADING]
    found = places(comparison)
    proven = proofs(comparison)
    return {
        "plot": plot_of(comparison),
        "panels": panels_of(comparison),
        "columns": shown,
        "groups": _groups(comparison, shown),
        "everywhere": doubts_everywhere(comparison),
        "place_columns": place_columns(comparison),
        "places": found,
        "kernels": (KERNELS, proven),
        "executed": executed_tables(comparison),
        "layers": layer_tables(comparison),
        "quality": quality_plots(comparison),
        "tokens": (TOKENS, TOKEN_HEADERS, differing(comparison)),
        "example_headers": EXAMPLE_HEADERS,
        "tokens_meaning": meaning(comparison),
        "bits": weight_bits(comparison),
        "shown_above": (SENSITIVITY, *BITS_TOPICS),
        "numbers": _numbers(comparison.rows),
    }


def _groups(comparison: Comparison, shown: Sequence[Column]) -> list[RowGroup]:
    found: list[RowGroup] = []
    first = 0
    names = short_names(comparison.machines)
    for (machine, *_), members in groupby(comparison.rows, key=lambda row: row.configuration):
        rows = tuple((row, tuple(column.cell(row) for column in shown)) for row in members)
        name = names[machine] if len(names) > 1 else ""
        found.append(RowGroup(heading=where(rows[0][0]), machine=name, rows=rows, first=first))
        first += len(rows)
    return found


def _is_packaged(artifact: str, comparison: Comparison) -> bool:
    return any(run.packaged == artifact for run in comparison.runs)


def _numbers(rows: Sequence[Row]) -> list[tuple[Row, list[str]]]:
    """Return every measured number: what, where, value, interval, n, ratio, verdict, doubts."""
    return [
        (
            row,
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
            ],
        )
        for row in rows
        for metric, value in row.values.items()
        if value.record.value is not None
    ]


def _breakable(text: str) -> Any:
    """Return a text whose long names may go on in the next line after an underscore."""
    from markupsafe import Markup, escape

    return Markup(str(escape(text)).replace("_", "_<wbr>"))


def _code(text: str) -> Any:
    """Return a text of ours with its backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
