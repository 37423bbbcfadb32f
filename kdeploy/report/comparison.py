"""What a report shows, as data: runs, rows with ratios to the baseline, lineages, gates, doubts.

Every format draws this and nothing else; `rows.py` fills it, `run_folder.py` reads the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdeploy.flags import FLAGS, Flag
from kdeploy.gate import Verdict
from kdeploy.measurement import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times better than the baseline (> 1 is better), with its 95 % interval."""

    times: float
    low: float | None = None
    high: float | None = None
    verdict: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One metric of a row: the record, its doubts, and its ratio where the baseline has one."""

    record: Measurement
    flags: tuple[str, ...] = ()
    baseline: Measurement | None = None
    ratio: Ratio | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One artefact in one runtime at one batch size and thread count on one machine.

    `run` is the index of its run. `skipped` is the reason when nothing could be measured.
    """

    run: int
    artifact: str
    label: str
    machine: str
    profile: str = ""
    runtime: str = ""
    device: str = ""
    batch_size: int | None = None
    threads: int | None = None
    is_baseline: bool = False
    is_packaged: bool = False
    values: Mapping[str, Value] = field(default_factory=dict, hash=False)
    skipped: str | None = None

    @property
    def cell(self) -> tuple[str, str, str, int | None, int | None]:
        """Return where it ran; only rows of one cell may be compared in speed."""
        return (self.machine, self.runtime, self.device, self.batch_size, self.threads)

    @property
    def flags(self) -> dict[str, list[str]]:
        """Return each doubt with the metrics that carry it."""
        found: dict[str, list[str]] = {}
        for metric, value in self.values.items():
            for flag in value.flags:
                found.setdefault(flag, []).append(metric)
        return found

    def number(self, metric: str) -> float | None:
        """Return the value of a metric, None when it was not measured."""
        value = self.values.get(metric)
        return value.record.value if value else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of an artefact's history, with the facts and scores after it."""

    id: str
    label: str = ""
    stage: str = ""
    technique: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    wall_time_seconds: float | None = None
    is_cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """How an artefact came to be: its steps, the oldest first, itself last."""

    artifact: str
    label: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One line of `comparisons.json`: a ratio that was measured interleaved."""

    label: str
    baseline: str
    runtime: str
    metric: str
    ratio: Ratio
    profile: str | None = None
    batch_size: int | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One folder of results, as far as its files exist."""

    folder: Path
    name: str
    records: tuple[Measurement, ...]
    machine: str = ""
    machine_facts: Mapping[str, Any] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    lineages: Mapping[str, Lineage] = field(default_factory=dict)
    gates: tuple[Verdict, ...] = ()
    packaged: str | None = None
    chosen: str | None = None
    chosen_because: str = ""
    cell: Mapping[str, Any] = field(default_factory=dict)
    has_summary: bool = False
    seeds: Mapping[str, Any] = field(default_factory=dict)
    """`student` and `baseline` over seeds, as `summary.json` has them."""
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs beside their baseline. `headline` is the row that the verdict speaks of."""

    runs: tuple[Run, ...]
    baseline: str
    rows: tuple[Row, ...]
    headline: Row | None = None

    @property
    def records(self) -> tuple[Measurement, ...]:
        """Return all records of all runs, as they were read."""
        return tuple(record for run in self.runs for record in run.records)

    @property
    def machines(self) -> dict[str, Mapping[str, Any]]:
        """Return the facts of each machine by its id, empty where no file tells them."""
        found: dict[str, Mapping[str, Any]] = {row.machine: {} for row in self.rows}
        for run in self.runs:
            if run.machine_facts or run.machine in found:
                found[run.machine] = run.machine_facts or found.get(run.machine, {})
        return found

    @property
    def flags(self) -> dict[str, Flag]:
        """Return the doubts that some row carries, explained."""
        used = {flag for row in self.rows for flag in row.flags}
        unknown = Flag(meaning="a doubt that this version does not know", remedy="update kdeploy")
        known = {name: flag for name, flag in FLAGS.items() if name in used}
        return known | dict.fromkeys(sorted(used - set(FLAGS)), unknown)

    @property
    def lineages(self) -> tuple[Lineage, ...]:
        """Return the history of each artefact that has a row, in the order of the rows."""
        found: dict[str, Lineage] = {}
        for row in self.rows:
            lineage = self.runs[row.run].lineages.get(row.artifact)
            if lineage is not None:
                found.setdefault(row.artifact, lineage)
        return tuple(found.values())
