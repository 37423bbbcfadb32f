"""Turn records into rows: one a cell, each metric beside that of the baseline in the same cell.

Sizes and counts do not depend on where a file ran, so they stand in each of its rows. Accuracy
is measured once a runtime, so it stands in each row of that runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kdeploy.flags import P99_MINIMUM_COUNT
from kdeploy.gate import times_better
from kdeploy.measurement import METRICS, Measurement
from kdeploy.report.comparison import Pair, Ratio, Row, Run, Value

ONCE_A_FILE = ("size", "parameters", "macs")
ONCE_A_RUNTIME = (
    *("accuracy.", "agreement.", "perplexity", "parity."),
    *("integer_kernels", "sparse_kernels"),
)
SPEED = ("latency.", "throughput", "load_time", "first_inference")
# A difference in speed below this is not worth a word, however sure it is.
PRACTICAL_DIFFERENCE = 0.03


def rows_of(runs: Sequence[Run], baseline: str) -> list[Row]:
    """Return all rows with their ratios, in the order in which they were measured."""
    bare = [row for index, run in enumerate(runs) for row in _bare_rows(index, run, baseline)]
    teachers = [row for row in bare if row.is_baseline]
    return [_compared(row, teachers, runs[row.run].pairs) for row in bare]


def ordered(rows: Iterable[Row], headline: Row | None) -> list[Row]:
    """Return the rows by cell, the headline's cell first and the baseline first in each cell."""
    rows = list(rows)
    cells = list(dict.fromkeys(row.cell for row in rows))
    machines = list(dict.fromkeys(row.machine for row in rows))
    first = headline.cell if headline else None
    first_machine = headline.machine if headline else None

    def place(row: Row) -> tuple[bool, int, bool, int, bool]:
        return (
            row.machine != first_machine,
            machines.index(row.machine),
            row.cell != first,
            cells.index(row.cell),
            not row.is_baseline,
        )

    return sorted(rows, key=place)


def headline_of(rows: Sequence[Row], runs: Sequence[Run]) -> Row | None:
    """Return the row to speak of: of the packaged file, else the chosen, else the last one.

    Among its rows, the cell that the gates were judged in, then one with a known speed-up.
    """
    others = [row for row in rows if not row.is_baseline and not row.skipped]
    for wanted in (
        [row for row in others if row.is_packaged],
        [row for row in others if row.artifact == runs[row.run].chosen],
        [row for row in others if _file(row) == _file(others[-1])],
    ):
        if wanted:
            return min(wanted, key=lambda row: (not _in_cell(row, runs), not _has_speed_up(row)))
    return None


def _file(row: Row) -> tuple[str, str, str]:
    return (row.artifact, row.label, row.profile)


def _in_cell(row: Row, runs: Sequence[Run]) -> bool:
    return all(getattr(row, key, None) == wanted for key, wanted in runs[row.run].cell.items())


def _has_speed_up(row: Row) -> bool:
    value = row.values.get("latency.p50")
    return value is not None and value.ratio is not None


def _bare_rows(index: int, run: Run, baseline: str) -> list[Row]:
    found: dict[Row, list[Measurement]] = {}
    for record in run.records:
        found.setdefault(_row(index, record, run, baseline), []).append(record)
    cells = [row for row, records in found.items() if _is_cell(row, records)]
    lonely = [row for row in found if row not in cells and not _hosts(row, cells)]
    return [_filled(row, run.records) for row in found if row in cells or row in lonely]


def _row(index: int, record: Measurement, run: Run, baseline: str) -> Row:
    return Row(
        run=index,
        artifact=record.artifact,
        label=record.label,
        machine=record.machine or run.machine,
        profile=record.profile,
        runtime=record.runtime,
        device=record.device,
        batch_size=record.batch_size,
        threads=record.threads,
        is_baseline=baseline in (record.label, record.artifact),
        is_packaged=_is_packaged(record, run),
    )


def _is_packaged(record: Measurement, run: Run) -> bool:
    """Say whether it is of the packaged file; the torch model has its id, but no profile."""
    if not record.artifact or record.artifact != run.packaged:
        return False
    has_files = any(r.profile for r in run.records if r.artifact == run.packaged)
    return bool(record.profile) or not has_files


def _is_cell(row: Row, records: Sequence[Measurement]) -> bool:
    """Say whether it was measured there, and not only carries what holds for several cells."""
    return bool(row.runtime) and not all(_is_shared(r.metric) for r in records)


def _is_shared(metric: str) -> bool:
    return metric.startswith((*ONCE_A_FILE, *ONCE_A_RUNTIME))


def _hosts(row: Row, cells: Sequence[Row]) -> bool:
    """Say whether some cell already shows what `row` carries."""
    return any(
        (cell.artifact, cell.label) == (row.artifact, row.label)
        and row.runtime in ("", cell.runtime)
        and row.profile in ("", cell.profile)
        for cell in cells
    )


def _filled(row: Row, records: Sequence[Measurement]) -> Row:
    own = [r for r in records if (r.artifact, r.label) == (row.artifact, row.label)]
    values: dict[str, Value] = {}
    for metric in METRICS:
        record = _best([r for r in own if r.metric == metric], row)
        if record is not None:
            values[metric] = Value(record=record, flags=_flags(record))
    measured = [v.record for m, v in values.items() if not m.startswith(ONCE_A_FILE)]
    reasons = [record.skipped for record in measured if record.skipped]
    is_skipped = bool(reasons) and all(record.value is None for record in measured)
    return replace(row, values=values, skipped=reasons[0] if is_skipped else None)


def _best(records: Sequence[Measurement], row: Row) -> Measurement | None:
    """Return the record that fits the row most closely, then its profile; of equals the newest."""

    def fits(record: Measurement) -> int:
        metric = record.metric
        # The torch model and its file share an id; only the profile tells their sizes apart.
        is_same_file = record.profile == (row.profile if record.runtime else "")
        if metric in ONCE_A_FILE and is_same_file:
            return 3 if record.runtime == row.runtime else 1
        is_elsewhere = record.machine not in ("", row.machine)
        is_other = record.runtime not in ("", row.runtime) or record.profile not in (
            "",
            row.profile,
        )
        if is_elsewhere or is_other:
            return 0
        place = (record.runtime, record.batch_size, record.threads)
        if place == (row.runtime, row.batch_size, row.threads):
            return 3
        if not record.runtime:
            return 1
        return 2 if metric.startswith(ONCE_A_RUNTIME) else 0

    ranked = [(fits(r), r.profile == row.profile, i) for i, r in enumerate(records) if fits(r)]
    return records[max(ranked)[-1]] if ranked else None


def _flags(record: Measurement) -> tuple[str, ...]:
    is_short = record.metric == "latency.p99" and record.n < P99_MINIMUM_COUNT
    added = ("few_samples",) if is_short and record.value is not None else ()
    return tuple(dict.fromkeys((*record.flags, *added)))


def _compared(row: Row, teachers: Sequence[Row], pairs: Sequence[Pair]) -> Row:
    if row.is_baseline:
        return row
    values = {m: _against(m, value, row, teachers, pairs) for m, value in row.values.items()}
    return replace(row, values=values)


def _against(
    metric: str, value: Value, row: Row, teachers: Sequence[Row], pairs: Sequence[Pair]
) -> Value:
    # The same run first; speeds never across machines, sizes across everything.
    same_run = sorted(teachers, key=lambda t: (t.run != row.run, t.cell != row.cell))
    fair = [t for t in same_run if metric in ONCE_A_FILE or t.cell == row.cell]
    teacher = next((t.values[metric] for t in fair if t.number(metric) is not None), None)
    if teacher is None or value.record.value is None:
        return value
    if "few_samples" in (*value.flags, *teacher.flags):
        return replace(value, baseline=teacher.record)  # a ratio of two chances says nothing
    ratio = next((p.ratio for p in pairs if _is_of(p, metric, row, teacher.record)), None)
    ratio = ratio or ratio_of(value.record, teacher.record)
    return replace(value, baseline=teacher.record, ratio=ratio)


def _is_of(pair: Pair, metric: str, row: Row, teacher: Measurement) -> bool:
    return (
        (pair.metric, pair.label, pair.baseline) == (metric, row.label, teacher.label)
        and pair.runtime == row.runtime
        and pair.profile in (None, row.profile)
        and (pair.batch_size, pair.threads) == (row.batch_size, row.threads)
    )


def ratio_of(candidate: Measurement, baseline: Measurement) -> Ratio | None:
    """Return how many times better, from two records; the interval takes the worst of both."""
    metric = candidate.metric
    if candidate.value is None or baseline.value is None:
        return None
    times = times_better(candidate.value, baseline.value, metric)
    bounds = (candidate.low, candidate.high, baseline.low, baseline.high)
    if any(bound is None for bound in bounds):
        verdict = _verdict(metric, times, times) if metric in ONCE_A_FILE else ""
        return Ratio(times=times, verdict=verdict)
    low, high, base_low, base_high = (float(bound or 0.0) for bound in bounds)
    if METRICS[metric].better == "higher":
        low, high = high, low
        base_low, base_high = base_high, base_low
    worst, best = times_better(high, base_low, metric), times_better(low, base_high, metric)
    return Ratio(times=times, low=worst, high=best, verdict=_verdict(metric, worst, best))


def _verdict(metric: str, low: float, high: float) -> str:
    is_speed = metric.startswith(SPEED)
    margin = PRACTICAL_DIFFERENCE if is_speed else 0.0
    good, bad = ("faster", "slower") if is_speed else ("better", "worse")
    if low > 1 + margin:
        return good
    return bad if high < 1 - margin else "no difference"
