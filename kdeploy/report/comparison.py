"""What a report shows, as data: runs, rows with ratios to the baseline, lineages, gates, doubts.

Every format draws this and nothing else; `rows.py` fills it, `run_folder.py` reads the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdeploy.flags import FLAGS, Flag
from kdeploy.gate import Verdict
from kdeploy.measurement import Measurement

OFFLINE = "offline"
"""The scenario in which each file takes its own batch size: rates compare, latencies do not."""


def scenario_of(record: Measurement) -> tuple[str, str]:
    """Return scenario and input shape, "" for what goes without saying."""
    return scenario_text(record.scenario), record.input_shape


def scenario_text(scenario: str) -> str:
    """Return the scenario, "" for one request after the other: all that older records know."""
    return "" if scenario == "single_stream" else scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times better than the baseline (> 1 is better), with its 95 % interval."""

    times: float
    low: float | None = None
    high: float | None = None
    verdict: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredValue:
    """One metric of a row: the record, its doubts, and its ratio where the baseline has one."""

    record: Measurement
    flags: tuple[str, ...] = ()
    baseline: Measurement | None = None
    ratio: Ratio | None = None

    @property
    def size_of_change(self) -> float:
        """Return how far from equal, alike for twice as good and half as good."""
        return abs(math.log(self.ratio.times)) if self.ratio and self.ratio.times > 0 else math.inf


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
    scenario: str = ""
    input_shape: str = ""
    is_baseline: bool = False
    is_packaged: bool = False
    values: Mapping[str, MeasuredValue] = field(default_factory=dict, hash=False)
    skipped: str | None = None

    @property
    def configuration(self) -> tuple[str | int | None, ...]:
        """Return where and how it ran; rows may be compared in speed where it is the same."""
        return (self.machine, self.runtime, self.device, *self.load)

    @property
    def load(self) -> tuple[str | int | None, ...]:
        """Return what it was asked to do: rows of one load may be compared over machines."""
        return (self.asked_batch, self.threads, self.scenario, self.input_shape)

    @property
    def asked_batch(self) -> int | None:
        """Return the batch size asked for, None where each file takes the largest that fits."""
        return None if self.scenario == OFFLINE else self.batch_size

    def was_measured_as(self, record: Measurement) -> bool:
        """Say whether the record is of this runtime and this load."""
        return (
            record.runtime == self.runtime
            and record.batch_size == self.batch_size
            and record.threads == self.threads
            and scenario_of(record) == (self.scenario, self.input_shape)
        )

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
class LineageStep:
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
    steps: tuple[LineageStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPair:
    """One line of `comparisons.json`: a ratio that was measured interleaved."""

    label: str
    baseline: str
    runtime: str
    metric: str
    ratio: Ratio
    profile: str | None = None
    batch_size: int | None = None
    threads: int | None = None
    scenario: str = ""
    input_shape: str = ""
    machine: str = ""
    """Named where one file holds the comparisons of several."""

    def is_of(self, row: Row) -> bool:
        """Tell whether the row is of the machine and encoding that were compared."""
        return self.machine in ("", row.machine) and self.profile in (None, row.profile)

    @property
    def configuration(self) -> tuple[str | int | None, ...]:
        """Return the runtime and what it was asked to do."""
        batch_size = None if self.scenario == OFFLINE else self.batch_size
        return (self.runtime, batch_size, self.threads, self.scenario, self.input_shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsFolder:
    """One folder of results, as far as its files exist."""

    folder: Path
    name: str
    records: tuple[Measurement, ...]
    machine: str = ""
    """The machine of records that name none."""
    machines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The fingerprint of each machine that the folder knows, by its id."""
    proofs: tuple[Mapping[str, Any], ...] = ()
    """Lines of `proofs.json`: what each file ran as."""
    next_tokens: tuple[Mapping[str, Any], ...] = ()
    """Lines of `next_tokens.json`: where each file of a language model differs from its teacher."""
    pairs: tuple[ComparedPair, ...] = ()
    lineages: Mapping[str, Lineage] = field(default_factory=dict)
    gates: tuple[Verdict, ...] = ()
    packaged: str | None = None
    packaged_profile: str | None = None
    """Which of its files; None: the run does not say."""
    chosen: str | None = None
    chosen_because: str = ""
    notes: tuple[str, ...] = ()
    """What the measurements say against files of the run, in sentences."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    has_summary: bool = False
    seeds: Mapping[str, Any] = field(default_factory=dict)
    """`student` and `baseline` over seeds, as `summary.json` has them."""
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestConfiguration:
    """The best configuration of a machine for one load: the fastest that holds every gate.

    When none does, `row` is the one that comes nearest, and `passed` is False.
    """

    row: Row
    passed: bool
    num_passed: int
    num_judged: int
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One metric of a row against the same row of another version, which is `value.baseline`.

    `verdict` is "better", "worse" or "no difference".
    """

    row: Row
    metric: str
    value: MeasuredValue
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionComparison:
    """The same rows in two versions: what changed, and the gates on the change."""

    name: str
    changes: tuple[Change, ...]
    num_rows: int
    """Rows that both versions have."""
    gone: tuple[Row, ...] = ()
    verdicts: tuple[tuple[Row, Verdict], ...] = ()

    def judged(self, verdict: str) -> list[Change]:
        """Return the changes of one verdict, the largest first."""
        found = [change for change in self.changes if change.verdict == verdict]
        return sorted(found, key=lambda change: -change.value.size_of_change)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs beside their baseline. `headline` is the row that the verdict speaks of."""

    runs: tuple[ResultsFolder, ...]
    baseline: str
    rows: tuple[Row, ...]
    headline: Row | None = None
    best: tuple[BestConfiguration, ...] = ()
    against: VersionComparison | None = None
    has_gates: bool = False
    """Whether gates were asked for with the report; those of the runs stand in the runs."""
    num_left_out: int = 0
    """Rows that `shortened` left out."""
    name: str = ""
    """Of the one device that it is about; "": it is about all."""
    pages: Mapping[str, str] = field(default_factory=dict)
    """The file with the page of each device by its id, where pages were asked for."""

    @property
    def passed(self) -> bool:
        """Say whether every device has a configuration, and every row in both, within gates."""
        changes = self.against.verdicts if self.against else ()
        is_judged = bool(self.best or changes) or not self.has_gates
        held = all(c.passed for c in self.best) and all(v.passed for _, v in changes)
        return is_judged and held

    @property
    def records(self) -> tuple[Measurement, ...]:
        """Return all records of all runs, as they were read."""
        return tuple(record for run in self.runs for record in run.records)

    @property
    def machines(self) -> dict[str, Mapping[str, Any]]:
        """Return the facts of each machine by its id, empty where no file tells them."""
        known = {name: facts for run in self.runs for name, facts in run.machines.items()}
        shown = {row.machine: known.get(row.machine, {}) for row in self.rows}
        return shown or known

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
