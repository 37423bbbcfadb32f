"""The same artefact on every device, runtime and precision, beside one another."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from kdeploy.report.comparison import Comparison, Row
from kdeploy.report.machine_facts import short_names
from kdeploy.report.table import Cell, Column, columns, text_column
from kdeploy.report.wording import NOTHING, quantity, task

SHOWN = (
    *("p50 latency", "throughput", "speed-up (p50)", "size", "top-1 accuracy", "peak memory"),
    *("device memory", "arena", "doubts"),
)
ENERGY = "energy"
UNREADABLE = "energy is not measurable here: "
"""With which a record begins that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """One artefact at one batch size, wherever it was measured: the fastest place first."""

    heading: str
    rows: tuple[Row, ...]


def places(comparison: Comparison) -> list[Places]:
    """Return each artefact that was tried in several places; where it has no speed, it is last."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in comparison.rows:
        if "latency.p50" in row.values:
            found.setdefault((row.label, task(row)), []).append(row)
    return [
        Places(heading=f"{label}, {what}", rows=tuple(sorted(rows, key=_latency)))
        for (label, what), rows in found.items()
        if len(rows) > 1
    ]


def place_columns(comparison: Comparison) -> list[Column]:
    """Return the columns of a place; `columns` has those of measured values."""
    names = short_names(comparison.machines)
    found = [
        text_column("runs on", "runtime and threads", lambda row: Cell(text=runtime_of(row))),
        text_column(
            "precision", "what the file and the kernels are", lambda row: Cell(text=_kind(row))
        ),
    ]
    if len(names) > 1:
        device = text_column("device", "the machine", lambda row: Cell(text=names[row.machine]))
        found.insert(1, device)
    chosen = {id(choice.row): choice.passed for choice in comparison.best}
    about = "the fastest of its device and load within the gates; where none is, the nearest"
    found.append(text_column("best here", about, lambda row: _best(chosen.get(id(row)))))
    known = {column.header: column for column in columns(comparison)}
    shown = [known[header] for header in SHOWN if header in known]
    return [*found, *shown, energy_column()]


def energy_column() -> Column:
    """Return the energy of an item, or why it is not known: a gap would say neither."""
    return text_column("energy", "of an item, or why it is not known", _energy)


def _energy(row: Row) -> Cell:
    value = row.values.get(ENERGY)
    if value is None:
        return Cell(text="not measured")
    if value.record.value is not None:
        return Cell(text=quantity(value.record.value, value.record.unit), flags=value.flags)
    reason = (value.record.skipped or "").removeprefix(UNREADABLE)
    return Cell(text=f"not readable: {reason}", verdict="skipped")


def _best(passed: bool | None) -> Cell:
    return Cell(text={True: "best", False: "nearest", None: NOTHING}[passed])


def place_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows as plain strings, the artefact in the first column."""
    shown = place_columns(comparison)
    rows = [
        [group.heading, *(str(column.cell(row)) for column in shown)]
        for group in places(comparison)
        for row in group.rows
    ]
    return ["artefact", *(column.header for column in shown)], rows


def runtime_of(row: Row) -> str:
    """Return runtime, accelerator and threads in one word or three."""
    device = f" ({row.device})" if row.device not in ("", "cpu") else ""
    threads = f", {row.threads} thread{'s' * (row.threads != 1)}" if row.threads else ""
    return f"{row.runtime}{device}{threads}"


def _kind(row: Row) -> str:
    """Return INT8 and 2:4 as far as kernels prove them, the runtime's precision, the profile."""
    option = row.runtime.partition("precision=")[2].partition(",")[0]
    parts = [
        "INT8" if row.number("integer_kernels") else "",
        "2:4" if row.number("sparse_kernels") else "",
        option.upper(),
        f"profile {row.profile}" if row.profile else "",
    ]
    return ", ".join(part for part in parts if part) or NOTHING


def _latency(row: Row) -> float:
    value = row.number("latency.p50")
    return inf if value is None else value
