"""A report a device: the same comparison, narrowed to what one machine has measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kdeploy.report.comparison import Comparison, ResultsFolder
from kdeploy.report.machine_facts import short_names
from kdeploy.report.rows import headline_of


def device_pages(comparison: Comparison, out: Path) -> dict[str, Path]:
    """Return the file of each machine's own page by its id, beside `out`; of one there is none."""
    names = short_names(comparison.machines)
    if len(names) < 2:
        return {}
    slugs = {machine: _slug(name) for machine, name in names.items()}
    twice = {slug for slug in slugs.values() if list(slugs.values()).count(slug) > 1}
    return {
        machine: out.with_name(
            f"{out.stem}-{f'{slug}-{number}' if slug in twice else slug}{out.suffix}"
        )
        for number, (machine, slug) in enumerate(slugs.items(), start=1)
    }


def with_pages(comparison: Comparison, pages: Mapping[str, Path]) -> Comparison:
    """Return the comparison that names the page of each device."""
    return replace(comparison, pages={machine: page.name for machine, page in pages.items()})


def of_machine(comparison: Comparison, machine: str) -> Comparison:
    """Return what one machine has measured, its best configurations and their verdicts."""
    rows = tuple(row for row in comparison.rows if row.machine == machine)
    headline = comparison.headline
    if headline is None or headline.machine != machine:
        headline = headline_of(rows, comparison.runs)
    against = comparison.against
    return replace(
        comparison,
        # Rows know their run by its place, so none may go.
        runs=tuple(_only(run, machine) for run in comparison.runs),
        rows=rows,
        headline=headline,
        best=tuple(choice for choice in comparison.best if choice.row.machine == machine),
        against=against
        and replace(
            against,
            changes=tuple(c for c in against.changes if c.row.machine == machine),
            gone=tuple(row for row in against.gone if row.machine == machine),
            verdicts=tuple(v for v in against.verdicts if v[0].machine == machine),
        ),
        pages={},
        name=short_names(comparison.machines)[machine],
    )


def _only(run: ResultsFolder, machine: str) -> ResultsFolder:
    records = tuple(r for r in run.records if (r.machine or run.machine) == machine)
    machines = {name: facts for name, facts in run.machines.items() if name == machine}
    if records:
        return replace(run, records=records, machines=machines)
    return replace(
        run, records=(), machines={}, gates=(), proofs=(), notes=(), command="", packaged=None,
        chosen=None, chosen_because="", has_summary=False, seeds={},
    )  # fmt: skip


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "device"
