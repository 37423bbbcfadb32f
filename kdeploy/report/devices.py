"""The same artefact on every device, runtime and precision, beside one another."""

from __future__ import annotations

from dataclasses import dataclass

from kdeploy.report.comparison import Comparison, Row
from kdeploy.report.machine_facts import short_names
from kdeploy.report.table import Cell, Column, columns, text_column
from kdeploy.report.wording import NOTHING, task

SHOWN = (
    *("p50 latency", "throughput", "speed-up (p50)", "size", "top-1 accuracy", "peak memory"),
    *("device memory", "energy", "doubts"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """One artefact at one batch size, wherever it was measured: the fastest place first."""

    heading: str
    rows: tuple[Row, ...]


def places(comparison: Comparison) -> list[Places]:
    """Return each artefact that was measured in several places."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in comparison.rows:
        if row.number("latency.p50") is not None:
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
    known = {column.header: column for column in columns(comparison)}
    return [*found, *(known[header] for header in SHOWN if header in known)]


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
    return row.number("latency.p50") or 0.0
