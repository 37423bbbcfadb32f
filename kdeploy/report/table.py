"""The table that the terminal, the markdown and the page share: columns, cells, strings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from kdeploy.measurement import METRICS
from kdeploy.report.comparison import OFFLINE, Comparison, Row
from kdeploy.report.machine_facts import short_names
from kdeploy.report.wording import (
    NOTHING,
    change,
    interval,
    quantity,
    ratio_interval,
    times,
    where,
)

# Why it could not be measured stands in its column.
ALWAYS = ("latency.p50",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One field: the value, its change against the baseline, its interval and count."""

    text: str = NOTHING
    note: str = ""
    details: tuple[str, ...] = ()
    verdict: str = ""
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        detail = f" [{', '.join(self.details)}]" if self.details else ""
        return f"{self.text}{detail}{note}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column; `about` explains its header."""

    header: str
    about: str
    is_number: bool
    cell: Callable[[Row], Cell]


def table_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows as plain strings; who prints them escapes them."""
    shown = columns(comparison)
    rows = [[str(column.cell(row)) for column in shown] for row in comparison.rows]
    return [column.header for column in shown], rows


def brief_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the columns that fit a terminal, without intervals, counts and doubts."""
    wanted = {
        "artefact": "artefact",
        "runs on": "runs on",
        "top-1 accuracy": "top-1",
        "perplexity": "perplexity",
        "p50 latency": "p50",
        "speed-up (p50)": "speed-up",
        "mean latency": "mean",
        "answered early": "early",
        "size": "size",
        "parameters": "parameters",
        "INT8 kernels": "INT8",
    }
    shown = [column for column in columns(comparison) if column.header in wanted]
    several = _in_several_files(comparison.rows)
    # What only carries the parity of a file that was not measured has nothing to say here.
    measured = [row for row in comparison.rows if row.batch_size is not None or row.skipped]
    rows = [[_brief(column, row, several) for column in shown] for row in measured]
    return [wanted[column.header] for column in shown], rows


def columns(comparison: Comparison) -> list[Column]:
    """Return the columns that say something: empty ones are left out."""
    rows = comparison.rows
    several_runs = len({(row.machine, row.run) for row in rows}) > len(comparison.machines)
    names = [run.name for run in comparison.runs]
    found = [text_column("artefact", "what was measured", _artefact)]
    if several_runs:
        found.append(text_column("run", "the run", lambda row: Cell(text=names[row.run])))
    machines = short_names(comparison.machines)
    if len(machines) > 1:
        found.append(
            text_column("machine", "where it ran", lambda row: Cell(text=machines[row.machine]))
        )
    found.append(text_column("runs on", "runtime, batch size, threads", _place))
    batched = any((row.batch_size or 1) > 1 for row in rows)
    dynamic = any("dynamic" in row.flags for row in rows)
    wanted = {
        "accuracy.top1": "top-1 accuracy",
        "perplexity": "perplexity",
        "divergence.next_token": "KL divergence",
        "generate.decode_rate": "decode rate",
        "latency.p50": "p50 latency",
        "speed-up": "speed-up (p50)",
        **({"latency.mean": "mean latency", "early_share": "answered early"} if dynamic else {}),
        "latency.p99": "p99 latency",
        "device_latency.p50": "p50 on the device",
        "server_rate": "requests/s within the limit",
        "offline_batch_size": "largest batch",
        **({"throughput": "throughput"} if batched else {}),
        "size": "size",
        "parameters": "parameters",
        "peak_memory": "peak memory",
        "device_memory": "device memory",
        "arena_memory": "arena",
        "energy": "energy",
        "integer_kernels": "INT8 kernels",
        "sparse_kernels": "2:4 kernels",
        "four_bit_kernels": "4-bit kernels",
    }
    measured = {m for row in rows for m in row.values if m in ALWAYS or row.number(m) is not None}
    measured |= {"speed-up"} if "latency.p50" in measured else set()
    found += [_number(metric, head) for metric, head in wanted.items() if metric in measured]
    everywhere = doubts_everywhere(comparison)
    if any(set(row.flags) - everywhere for row in rows):
        found.append(
            text_column(
                "doubts", "explained below", lambda row: Cell(text=_doubts(row, everywhere))
            )
        )
    return found


def doubts_everywhere(comparison: Comparison) -> set[str]:
    """Return the flags that the p50 of every measured row carries: they are said once."""
    measured = [
        {flag for flag, metrics in row.flags.items() if "latency.p50" in metrics}
        for row in comparison.rows
        if row.number("latency.p50") is not None
    ]
    return set.intersection(*measured) if len(measured) > 1 else set()


def doubt_rows(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """Return each flag in use: name, which rows, meaning, remedy."""
    everywhere = doubts_everywhere(comparison)
    found = []
    for name, flag in comparison.flags.items():
        count = sum(name in row.flags for row in comparison.rows)
        which = (
            "all measured rows" if name in everywhere else f"{count} of {len(comparison.rows)} rows"
        )
        found.append((name, which, flag.meaning, flag.remedy))
    return found


def skipped_rows(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """Return what could not run: labels, where, what, reason; what shares all but labels is one."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in comparison.rows:
        reasons = {m: v.record.skipped for m, v in row.values.items() if v.record.skipped}
        for metric, reason in (
            {"everything": row.skipped}.items() if row.skipped else reasons.items()
        ):
            found.setdefault((row.runtime, metric, reason or ""), []).append(row)
    return [
        (
            ", ".join(dict.fromkeys(row.label for row in rows)),
            "; ".join(dict.fromkeys(where(row) for row in rows)),
            metric,
            reason,
        )
        for (_, metric, reason), rows in found.items()
    ]


def _in_several_files(rows: Sequence[Row]) -> set[str]:
    """Return the labels of which several files were measured: there the profile is named."""
    files = {(row.label, row.profile) for row in rows if row.profile}
    labels = [label for label, _ in files]
    return {label for label in labels if labels.count(label) > 1}


def _brief(column: Column, row: Row, several: Collection[str]) -> str:
    cell = column.cell(row)
    if cell.verdict == "skipped":
        return "skipped"
    if column.header == "artefact":
        file = f" {row.profile}" if row.profile and row.label in several else ""
        marks = [m for m, is_so in _marks(row).items() if is_so]
        return cell.text + file + (f" ({', '.join(marks)})" if marks else "")
    if column.header == "runs on":
        words = [row.runtime, f"b{row.batch_size}", f"t{row.threads or 'all'}"]
        return " ".join([*words, *(part for part in (row.input_shape, row.scenario) if part)])
    return cell.text


def text_column(header: str, about: str, cell: Callable[[Row], Cell]) -> Column:
    """Return a column of words."""
    return Column(header=header, about=about, is_number=False, cell=cell)


def _number(metric: str, header: str) -> Column:
    if metric == "speed-up":
        about = "p50 latency of the baseline / p50 latency, same runtime, batch, threads, machine"
        return Column(header=header, about=about, is_number=True, cell=_speed_up)
    about = f"{METRICS[metric].about}; {METRICS[metric].better} is better"
    return Column(
        header=header, about=about, is_number=True, cell=lambda row: _measured(row, metric)
    )


def _artefact(row: Row) -> Cell:
    notes = [
        "baseline" if row.is_baseline else "",
        *(mark for mark, is_so in _marks(row).items() if is_so),
        f"profile {row.profile}" if row.profile else "",
        f"batch {row.batch_size}" if row.scenario == OFFLINE else "",
    ]
    return Cell(text=row.label, note=", ".join(note for note in notes if note))


def _marks(row: Row) -> dict[str, bool]:
    return {"dynamic": "dynamic" in row.flags, "packaged": row.is_packaged}


def _place(row: Row) -> Cell:
    return Cell(text=where(row) if row.runtime else NOTHING)


def _doubts(row: Row, everywhere: set[str]) -> str:
    """Return the row's own flags; the metrics are named where p50 is not among them."""
    found = [
        flag if "latency.p50" in metrics else f"{flag} ({', '.join(_short(metrics))})"
        for flag, metrics in row.flags.items()
        if flag not in everywhere
    ]
    return ", ".join(found) or NOTHING


def _short(metrics: Sequence[str]) -> list[str]:
    return [metric.removeprefix("latency.") for metric in metrics]


def _measured(row: Row, metric: str) -> Cell:
    value = row.values.get(metric)
    is_speed = metric == "latency.p50"
    reason = row.skipped or (value.record.skipped if value is not None else None)
    if is_speed and reason:
        return Cell(text=f"skipped: {reason}", verdict="skipped")
    if value is None:
        return Cell()
    if value.record.value is None:
        return Cell(text="skipped", verdict="skipped")
    count = f"n {value.record.n}" if value.record.n > 1 else ""
    return Cell(
        text=quantity(value.record.value, value.record.unit),
        note="" if is_speed or metric.endswith("kernels") else change(value),
        details=tuple(part for part in (interval(value), count) if part),
        flags=value.flags,
    )


def _speed_up(row: Row) -> Cell:
    value = row.values.get("latency.p50")
    if row.scenario == OFFLINE:
        return Cell()  # of other batch sizes
    if row.is_baseline and value is not None and value.record.value is not None:
        return Cell(text=times(1.0), note="baseline")
    if value is None or value.ratio is None:
        return Cell()
    verdict = value.ratio.verdict
    return Cell(
        text=times(value.ratio.times),
        details=tuple(part for part in (ratio_interval(value),) if part),
        note=verdict or "interval unknown",
        verdict=verdict,
    )
