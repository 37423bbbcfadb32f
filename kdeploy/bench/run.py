"""Measure files: latency, memory and accuracy of each, in each runtime, side by side.

Every subject of a cell (runtime, batch size, threads) runs in a fresh process of its own. What
cannot run is a record with its reason; raw samples are kept beside the records.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.bench.records import comparisons, measurements
from kdeploy.bench.rounds import measure_group
from kdeploy.bench.samples import keep
from kdeploy.bench.subject import Cell, Outcome, Plan, Scenario, Subject, rounds_within
from kdeploy.data.load import DataReference, load
from kdeploy.errors import UnknownName
from kdeploy.machine import allowed_cores, fingerprint
from kdeploy.measurement import Measurement
from kdeploy.runtimes.run import named

__all__ = ["BenchResult", "Subject", "bench"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """Records, and for each pair with the baseline a ratio: how many times better it is."""

    measurements: list[Measurement]
    comparisons: list[dict[str, Any]]


def bench(
    subjects: Sequence[Subject],
    *,
    runtimes: Sequence[str],
    batch_sizes: Sequence[int] = (1,),
    threads: Sequence[int | None] = (None,),
    scenarios: Sequence[Scenario] = ("single_stream",),
    sizes: Sequence[tuple[int, ...]] = ((),),
    data: DataReference | None,
    accuracy: bool = True,
    baseline: str | None = None,
    minimum_seconds: float = 1.0,
    minimum_count: int = 100,
    latency_limit_seconds: float | None = None,
    memory_limit_bytes: int | None = None,
    timeout_seconds: float = 600,
    out: Path,
    watch: Callable[[str], None] = lambda text: None,
) -> BenchResult:
    """Measure all subjects in all cells.

    Args:
        subjects: What to measure.
        runtimes: Names of runtimes; one that cannot run gives records that say why.
        batch_sizes: Items in a batch.
        threads: Threads of the runtime; None: all cores that this process may use.
        scenarios: How requests come: see `kdeploy.bench.scenarios`.
        sizes: Heights and widths, or lengths, that items are brought to; (): as they are.
        data: Whose test part is fed and judged; None: seeded noise, no accuracy.
        accuracy: Whether to run the whole test part, at the first batch size and thread count.
        baseline: Label of the subject that others are compared with.
        minimum_seconds: At least so long each subject is timed in each cell,
        minimum_count: and at least so many batches.
        latency_limit_seconds: What the p99 must stay within in scenario `server`.
        memory_limit_bytes: What a batch must fit in, in scenario `offline`; None: what is free.
        timeout_seconds: How long one step of one subject may take before it counts as hung.
        out: Folder for the raw samples.
        watch: Called with a line for people at every step.

    Raises:
        UnknownName: a runtime or a baseline that does not exist.
        DataError: the data cannot be used.
    """
    _check(subjects, runtimes, baseline)
    if data is not None:
        load(data)  # what is wrong with it is the user's error, not that of each cell
    plan = Plan(
        data=data,
        accuracy=accuracy,
        minimum_seconds=minimum_seconds,
        minimum_count=minimum_count,
        timeout_seconds=timeout_seconds,
        rounds=rounds_within(minimum_seconds),
        latency_limit_seconds=latency_limit_seconds,
        memory_limit_bytes=memory_limit_bytes,
    )
    outcomes: list[Outcome] = []
    ratios: list[dict[str, Any]] = []
    seen: set[str] = set()
    for cell in _cells(runtimes, batch_sizes, threads, scenarios, sizes):
        with_accuracy = accuracy and cell.runtime not in seen
        seen.add(cell.runtime)
        group = list(_group(subjects, cell, plan, with_accuracy=with_accuracy, watch=watch))
        ratios += comparisons(group, baseline=baseline) if baseline else []
        outcomes += group
    keep(outcomes, out / "samples")
    machine = fingerprint()
    records = [measurements(o, machine, taught=_taught(o, outcomes, baseline)) for o in outcomes]
    return BenchResult(measurements=list(itertools.chain(*records)), comparisons=ratios)


def _check(subjects: Sequence[Subject], runtimes: Sequence[str], baseline: str | None) -> None:
    for name in runtimes:
        named(name, where="the runtimes to measure in")
    labels = {subject.label for subject in subjects}
    if baseline is not None and baseline not in labels:
        raise UnknownName.among("subject", baseline, labels, where="the baseline")


def _cells(
    runtimes: Sequence[str],
    batch_sizes: Sequence[int],
    threads: Sequence[int | None],
    scenarios: Sequence[Scenario],
    sizes: Sequence[tuple[int, ...]],
) -> Iterator[Cell]:
    counts = dict.fromkeys(count or allowed_cores() for count in threads)
    swept = itertools.product(runtimes, scenarios, sizes, batch_sizes, counts)
    for runtime, scenario, size, batch_size, count in swept:
        yield Cell(
            runtime=runtime, batch_size=batch_size, threads=count, scenario=scenario, size=size
        )


def _group(
    subjects: Sequence[Subject],
    cell: Cell,
    plan: Plan,
    *,
    with_accuracy: bool,
    watch: Callable[[str], None],
) -> Iterator[Outcome]:
    technique, _ = named(cell.runtime)
    unavailable = technique.load().unavailable()
    able = []
    for subject in subjects:
        reason = unavailable
        if reason is None and subject.format not in technique.facts["formats"]:
            formats = ", ".join(sorted(technique.facts["formats"]))
            reason = f"{cell.runtime} opens {formats}, not {subject.format}"
        if reason is None:
            able.append(subject)
        else:
            yield Outcome(subject=subject, cell=cell, skipped=reason)
    if able:
        yield from measure_group(able, cell, plan, with_accuracy=with_accuracy, watch=watch)


def _taught(
    outcome: Outcome, outcomes: Sequence[Outcome], baseline: str | None
) -> NDArray[np.int64] | None:
    """Return the baseline's classes, from the same runtime where it could run there."""
    found = [o for o in outcomes if o.subject.label == baseline and o.predictions is not None]
    found.sort(key=lambda o: o.cell.runtime != outcome.cell.runtime)
    return found[0].predictions if found else None
