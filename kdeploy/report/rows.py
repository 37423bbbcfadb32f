"""Turn records into rows: one a configuration, each metric beside the baseline's in the same one.

Sizes and counts do not depend on where a file ran, so they stand in each of its rows. Accuracy
is measured once a runtime, so it stands in each row of that runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from kdeploy.flags import P99_MINIMUM_COUNT
from kdeploy.gate import times_better
from kdeploy.measurement import METRICS, Measurement
from kdeploy.report.comparison import (
    OFFLINE,
    ComparedPair,
    MeasuredValue,
    Ratio,
    ResultsFolder,
    Row,
    scenario_of,
)
from kdeploy.report.record_index import ONCE_A_FILE, ONCE_A_RUNTIME, RecordIndex, indexes_of

SPEED = (
    *("latency.", "device_latency.", "throughput", "server_rate"),
    *("load_time", "first_inference", "cold_start"),
)
EMULATED = "emulated_processor"
NO_SPEED = "an emulated processor: its times and energy are the emulator's"
OF_A_BATCH = ("latency.", "device_latency.", "first_inference")
# A tail of few samples is their maximum, or only a bound.
UNSURE = frozenset({"few_samples", "p99_bound"})
# A difference in speed below this is not worth a word, however sure it is.
PRACTICAL_DIFFERENCE = 0.03


def rows_of(runs: Sequence[ResultsFolder], baseline: str) -> list[Row]:
    """Return all rows with their ratios, in the order in which they were measured."""
    bare = [row for index, run in enumerate(runs) for row in _bare_rows(index, run, baseline)]
    teachers = _Teachers([row for row in bare if row.is_baseline])
    pairs = [_by_configuration(run.pairs) for run in runs]
    return [_compared(row, teachers, pairs[row.run]) for row in bare]


def ordered(rows: Iterable[Row], headline: Row | None) -> list[Row]:
    """Return the rows by configuration, the headline's first and the baseline first in each."""
    rows = list(rows)
    configurations = {
        configuration: i
        for i, configuration in enumerate(dict.fromkeys(row.configuration for row in rows))
    }
    machines = {name: i for i, name in enumerate(dict.fromkeys(row.machine for row in rows))}
    first = headline.configuration if headline else None
    first_machine = headline.machine if headline else None

    def place(row: Row) -> tuple[bool, int, bool, int, bool]:
        return (
            row.machine != first_machine,
            machines[row.machine],
            row.configuration != first,
            configurations[row.configuration],
            not row.is_baseline,
        )

    return sorted(rows, key=place)


def headline_of(rows: Sequence[Row], runs: Sequence[ResultsFolder]) -> Row | None:
    """Return the row to speak of: of the packaged file, else the chosen, else the last one.

    Among its rows, the one that the gates were judged on, then one with a known speed-up.
    """
    others = [row for row in rows if not row.is_baseline and not row.skipped]
    for wanted in (
        [row for row in others if row.is_packaged],
        [row for row in others if row.artifact == runs[row.run].chosen],
        [row for row in others if _file(row) == _file(others[-1])],
    ):
        if wanted:
            return min(
                wanted, key=lambda row: (not _is_judged_in(row, runs), not _has_speed_up(row))
            )
    return None


def _file(row: Row) -> tuple[str, str, str]:
    return (row.artifact, row.label, row.profile)


def _is_judged_in(row: Row, runs: Sequence[ResultsFolder]) -> bool:
    return all(
        getattr(row, key, None) == wanted for key, wanted in runs[row.run].configuration.items()
    )


def _has_speed_up(row: Row) -> bool:
    value = row.values.get("latency.p50")
    return value is not None and value.ratio is not None


def _bare_rows(index: int, run: ResultsFolder, baseline: str) -> list[Row]:
    found: dict[Row, list[Measurement]] = {}
    packaged = _packaged_profiles(run)
    # Of several files of the baseline the first in each runtime is what others are held against.
    first: dict[tuple[str, str], str] = {}
    for record in run.records:
        is_baseline = baseline in (record.label, record.artifact)
        if is_baseline:
            place = (record.machine, record.runtime)
            is_baseline = first.setdefault(place, record.profile) == record.profile
        is_packaged = record.artifact == run.packaged and record.profile in packaged
        row = replace(_row(index, record, run), is_baseline=is_baseline, is_packaged=is_packaged)
        found.setdefault(row, []).append(record)
    configurations: dict[tuple[str, str], list[Row]] = {}
    for row, records in found.items():
        if _was_measured(row, records):
            configurations.setdefault(_subject(row), []).append(row)
    indexes = indexes_of(run.records)
    return [
        _filled(row, indexes[_subject(row)])
        for row in found
        if row in (own := configurations.get(_subject(row), [])) or not _hosts(row, own)
    ]


def _packaged_profiles(run: ResultsFolder) -> set[str]:
    """Return the profiles that the records of the file in the bundle carry."""
    if run.packaged_profile is not None:
        return {run.packaged_profile}
    # An earlier run does not say which file: any but the torch model, where there are files.
    found = {r.profile for r in run.records if run.packaged and r.artifact == run.packaged}
    return found - {""} or found


def _row(index: int, record: Measurement, run: ResultsFolder) -> Row:
    scenario, shape = scenario_of(record)
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
        scenario=scenario,
        input_shape=shape,
    )


def _subject(row: Row) -> tuple[str, str]:
    return (row.artifact, row.label)


def _was_measured(row: Row, records: Sequence[Measurement]) -> bool:
    """Say whether it was measured there, and not only carries what holds for several rows."""
    shared = (*ONCE_A_FILE, *ONCE_A_RUNTIME)
    return bool(row.runtime) and not all(r.metric.startswith(shared) for r in records)


def _hosts(row: Row, configurations: Sequence[Row]) -> bool:
    """Say whether another row of the same artefact already shows what `row` carries."""
    return any(
        row.runtime in ("", configuration.runtime) and row.profile in ("", configuration.profile)
        for configuration in configurations
    )


def _filled(row: Row, index: RecordIndex) -> Row:
    values: dict[str, MeasuredValue] = {}
    for metric in METRICS:
        record = index.best(metric, row)
        if record is not None:
            values[metric] = MeasuredValue(record=_believed(record), flags=_flags(record))
    measured = [v.record for m, v in values.items() if not m.startswith(ONCE_A_FILE)]
    reasons = [record.skipped for record in measured if record.skipped]
    is_skipped = bool(reasons) and all(record.value is None for record in measured)
    return replace(row, values=values, skipped=reasons[0] if is_skipped else None)


def _believed(record: Measurement) -> Measurement:
    """Return a record without a number that an emulator made up: its times are its own."""
    if EMULATED not in record.flags or not record.metric.startswith((*SPEED, "energy")):
        return record
    return replace(record, value=None, low=None, high=None, skipped=record.skipped or NO_SPEED)


def _flags(record: Measurement) -> tuple[str, ...]:
    is_short = record.metric == "latency.p99" and record.n < P99_MINIMUM_COUNT
    is_said = record.value is None or not UNSURE.isdisjoint(record.flags)
    added = ("few_samples",) if is_short and not is_said else ()
    return tuple(dict.fromkeys((*record.flags, *added)))


class _Teachers:
    """The baseline's rows, found by configuration and by run."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.by_configuration = _grouped(rows, lambda row: row.configuration)
        self.by_run = _grouped(rows, lambda row: row.run)

    def value(self, metric: str, row: Row) -> MeasuredValue | None:
        """Return what to compare with: speeds never across machines, sizes across everything."""
        here = self.by_configuration.get(row.configuration, [])
        fair: Iterable[Row] = sorted(here, key=lambda teacher: teacher.run != row.run)
        if metric in ONCE_A_FILE:
            near = [teacher for teacher in here if teacher.run == row.run]
            fair = chain(near, self.by_run.get(row.run, []), here, self.rows)
        return next((t.values[metric] for t in fair if t.number(metric) is not None), None)


def _grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def _by_configuration(pairs: Iterable[ComparedPair]) -> dict[tuple[Any, ...], list[ComparedPair]]:
    found: dict[tuple[Any, ...], list[ComparedPair]] = {}
    for pair in pairs:
        found.setdefault((pair.metric, pair.label, pair.baseline, *pair.configuration), []).append(
            pair
        )
    return found


def _compared(
    row: Row, teachers: _Teachers, pairs: Mapping[tuple[Any, ...], list[ComparedPair]]
) -> Row:
    if row.is_baseline:
        return row
    values = {m: _against(m, value, row, teachers, pairs) for m, value in row.values.items()}
    return replace(row, values=values)


def _against(
    metric: str,
    value: MeasuredValue,
    row: Row,
    teachers: _Teachers,
    pairs: Mapping[tuple[Any, ...], list[ComparedPair]],
) -> MeasuredValue:
    teacher = teachers.value(metric, row)
    if row.scenario == OFFLINE and metric.startswith(OF_A_BATCH):
        return value
    if teacher is None or value.record.value is None:
        return value
    if not UNSURE.isdisjoint((*value.flags, *teacher.flags)):
        return replace(value, baseline=teacher.record)  # a ratio of two chances says nothing
    key = (metric, row.label, teacher.record.label, row.runtime, *row.load)
    known = pairs.get(key, [])
    ratio = next((p.ratio for p in known if p.is_of(row)), None)
    ratio = ratio or ratio_of(value.record, teacher.record)
    return replace(value, baseline=teacher.record, ratio=ratio)


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
