"""Which record stands in which row: found by machine and runtime, so that 100 000 are quick.

Sizes and counts do not depend on where a file ran; accuracy is measured once a runtime.
"""

from __future__ import annotations

from collections.abc import Iterable

from kdeploy.measurement import Measurement
from kdeploy.report.comparison import Row

ONCE_A_FILE = ("size", "parameters", "macs")
ONCE_A_RUNTIME = (
    *("accuracy.", "agreement.", "divergence.", "perplexity", "parity."),
    *("integer_kernels", "sparse_kernels"),
)


class RecordIndex:
    """The records of one artefact, the older first."""

    def __init__(self) -> None:
        self._of_files: dict[str, dict[tuple[str, ...], Measurement]] = {}
        self._by_place: dict[tuple[str, str, str], list[Measurement]] = {}

    def add(self, record: Measurement) -> None:
        """Put a record where rows look for it."""
        if record.metric in ONCE_A_FILE:
            newest = self._of_files.setdefault(record.metric, {})
            key = (record.machine, record.runtime, record.profile)
            newest.pop(key, None)  # so that the newest stands last
            newest[key] = record
        else:
            key = (record.metric, record.machine, record.runtime)
            self._by_place.setdefault(key, []).append(record)

    def best(self, metric: str, row: Row) -> Measurement | None:
        """Return the record that fits the row most closely, then its profile, then the newest."""
        found = list(self._of_files.get(metric, {}).values())
        for machine in dict.fromkeys(("", row.machine)):
            for runtime in dict.fromkeys(("", row.runtime)):
                found += self._by_place.get((metric, machine, runtime), [])
        ranked = [
            (fit, record.profile == row.profile, index)
            for index, record in enumerate(found)
            if (fit := _fit(record, row))
        ]
        return found[max(ranked)[-1]] if ranked else None


def indexes_of(records: Iterable[Measurement]) -> dict[tuple[str, str], RecordIndex]:
    """Return an index for each artefact's id and label."""
    found: dict[tuple[str, str], RecordIndex] = {}
    for record in records:
        found.setdefault((record.artifact, record.label), RecordIndex()).add(record)
    return found


def _fit(record: Measurement, row: Row) -> int:
    """Return how closely a record fits a row: 3 measured there, 1 holds there too, 0 not at all."""
    metric = record.metric
    # The torch model and its file share an id; only the profile tells their sizes apart.
    is_same_file = record.profile == (row.profile if record.runtime else "")
    if metric in ONCE_A_FILE and is_same_file:
        return 3 if record.runtime == row.runtime else 1
    is_elsewhere = record.machine not in ("", row.machine)
    is_other = record.runtime not in ("", row.runtime) or record.profile not in ("", row.profile)
    if is_elsewhere or is_other:
        return 0
    if row.was_measured_as(record):
        return 3
    if not record.runtime:
        return 1
    return 2 if metric.startswith(ONCE_A_RUNTIME) else 0
