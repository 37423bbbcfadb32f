"""Two versions of the same files, row by row: what got better, what got worse, what is gone.

Rows are the same when label, profile, runtime, load and machine are. Where a version was measured
on another machine, only what does not depend on the machine is compared: sizes and counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kdeploy.gate import Gate, Verdict, judge
from kdeploy.report.comparison import Change, MeasuredValue, Ratio, Row, VersionComparison
from kdeploy.report.record_index import ONCE_A_FILE, ONCE_A_RUNTIME
from kdeploy.report.rows import PRACTICAL_DIFFERENCE, UNSURE, ratio_of

Key = tuple[str | float | None, ...]
# What was timed once has no interval, and the same file differs by so much from run to run.
ONCE_TIMED = ("load_time", "first_inference", "cold_start")
ONCE_TIMED_DIFFERENCE = 0.25  # loading and the first run are measured once: 25 % is noise


def against(
    rows: Sequence[Row], before: Sequence[Row], *, name: str, gates: Sequence[Gate] = ()
) -> VersionComparison:
    """Return what changed between the rows of two versions.

    Args:
        rows: The newer version.
        before: The older version.
        name: What the older version is called.
        gates: Bounds on the change: each row of the older version must hold them in the newer.
    """
    now, then = ({_key(row): row for row in of} for of in (rows, before))
    anywhere = {_key(row)[1:]: row for row in before}
    both = [(row, then[key]) for key, row in now.items() if key in then]
    moved = [
        (row, anywhere[key[1:]])
        for key, row in now.items()
        if key not in then and key[1:] in anywhere
    ]
    found = {_key(row)[1:] for row, _ in (*both, *moved)}
    gone = tuple(row for key, row in then.items() if key not in now and key[1:] not in found)
    changes = [change for row, old in both for change in _changes(row, old)]
    changes += [change for row, old in moved for change in _changes(row, old, ONCE_A_FILE)]
    # Reversed twice: of equal changes the first in the table's order stays.
    once = {_what(change): change for change in reversed(changes)}
    return VersionComparison(
        name=name,
        changes=tuple(reversed(once.values())),
        num_rows=len(both) + len(moved),
        gone=gone,
        verdicts=tuple(v for g in gates for v in _judged(g, (*both, *moved), gone, rows)),
    )


def _key(row: Row) -> Key:
    return (row.machine, row.label, row.profile, row.runtime, row.device, *row.load)


def _what(change: Change) -> Key:
    """Return what tells two changes apart: a file's size stands in each of its rows."""
    row, metric = change.row, change.metric
    if metric in ONCE_A_FILE:
        return (metric, row.label, row.profile, change.value.record.value)
    if metric.startswith(ONCE_A_RUNTIME):
        value = change.value.record.value
        return (metric, row.label, row.profile, row.runtime, row.machine, value)
    return (metric, *_key(row))


def _changes(row: Row, old: Row, only: tuple[str, ...] = ("",)) -> Iterator[Change]:
    for metric, value in row.values.items():
        before = old.values.get(metric)
        if before is None or not metric.startswith(only):
            continue
        # A doubtful number of either side can prove no change.
        if not UNSURE.isdisjoint((*value.flags, *before.flags)):
            continue
        ratio = _ratio(value, before)
        if ratio is not None:
            changed = replace(value, baseline=before.record, ratio=ratio)
            yield Change(row=row, metric=metric, value=changed, verdict=_word(ratio))


def _ratio(value: MeasuredValue, before: MeasuredValue) -> Ratio | None:
    """Return the ratio; without intervals a difference counts from the practical one on."""
    if value.record.value == before.record.value is not None:
        return Ratio(times=1.0, verdict="no difference")
    ratio = ratio_of(value.record, before.record)
    if ratio is None or ratio.low is not None:
        return ratio
    is_timed_once = value.record.metric in ONCE_TIMED
    most = 1 + (ONCE_TIMED_DIFFERENCE if is_timed_once else PRACTICAL_DIFFERENCE)
    is_small = 1 / most <= ratio.times <= most
    verdict = "no difference" if is_small else "better" if ratio.times > 1 else "worse"
    return replace(ratio, verdict=verdict)


def _word(ratio: Ratio) -> str:
    return {"faster": "better", "slower": "worse"}.get(ratio.verdict, ratio.verdict)


def _judged(
    gate: Gate,
    pairs: Sequence[tuple[Row, Row]],
    gone: Sequence[Row],
    rows: Sequence[Row],
) -> Iterator[tuple[Row, Verdict]]:
    """Yield a verdict a row that the older version measured; what is gone or elsewhere fails."""
    known = [(row, old) for row, old in pairs if old.number(gate.metric) is not None]
    lost = [row for row in gone if row.number(gate.metric) is not None]
    for row, old in known:
        # What is measured in time on another machine says nothing of the version.
        fair = row.machine == old.machine or gate.metric in ONCE_A_FILE
        yield row, _verdict(gate, row if fair else None, old)
    for row in lost:
        yield row, _verdict(gate, None, row)
    if not known and not lost:
        yield from ((row, _verdict(gate, row, None)) for row in rows[:1])


def _verdict(gate: Gate, row: Row | None, old: Row | None) -> Verdict:
    now, before = (
        [value.record for value in of.values.values()] if of else [] for of in (row, old)
    )
    return judge([gate], now, before)[0]
