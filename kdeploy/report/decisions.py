"""What follows from the numbers, as tables: the best configuration a device, and what changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdeploy.gate import Verdict
from kdeploy.measurement import METRICS
from kdeploy.report.best import metric_of
from kdeploy.report.comparison import BestConfiguration, Change, Comparison, Row, VersionComparison
from kdeploy.report.devices import runtime_of
from kdeploy.report.machine_facts import short_names
from kdeploy.report.record_index import ONCE_A_FILE, ONCE_A_RUNTIME
from kdeploy.report.wording import (
    NOTHING,
    change,
    quantity,
    ratio_interval,
    task,
    where,
)

BEST_TITLE = "Best configuration of each device"
BEST_HEADERS = (
    *("device", "asked", "artefact", "runs on", "p50 or rate", "speed-up", "top-1 accuracy"),
    *("size", "because"),
)
CHANGE_HEADERS = ("", "artefact", "where", "metric", "before", "now", "change")
GATE_HEADERS = ("", "gate", "where", "measured")
MOST_CHANGES = 25  # on a page; all are in the csv
MOST_GATES = 50
LIKE_P50 = ("latency.mean", "latency.p90", "latency.p99", "throughput")


def best_rows(comparison: Comparison) -> list[list[str]]:
    """Return a row a device and load; nothing where there is neither a choice nor a gate."""
    has_choice = any(choice.num_judged > 1 for choice in comparison.best)
    if not (has_choice or comparison.has_gates):
        return []
    names = short_names(comparison.machines)
    return [
        _best(choice, names.get(choice.row.machine, choice.row.machine))
        for choice in comparison.best
    ]


def _best(choice: BestConfiguration, machine: str) -> list[str]:
    row = choice.row
    metrics = (metric_of(row), "accuracy.top1", "size")
    values = [row.values.get(metric) for metric in metrics]
    speed, accuracy, size = (
        quantity(v.record.value, v.record.unit) if v else NOTHING for v in values
    )
    faster = change(values[0]) if values[0] else ""
    return [
        machine,
        task(row),
        row.label if choice.passed else f"none (nearest: {row.label})",
        runtime_of(row),
        speed,
        faster or ("baseline" if row.is_baseline else NOTHING),
        accuracy,
        size,
        _gates(choice),
    ]


def _gates(choice: BestConfiguration) -> str:
    if not choice.verdicts:
        return f"fastest of {choice.num_judged}"
    broken = [v for v in choice.verdicts if not v.passed]
    text = "; ".join(f"{v.gate}: {v.reason}" for v in broken)
    return text or f"all hold, as in {choice.num_passed} of {choice.num_judged} configurations"


def change_rows(
    against: VersionComparison, machines: Mapping[str, Mapping[str, Any]]
) -> list[list[str]]:
    """Return what got worse, then what got better, the largest changes first.

    Times and rates that changed like the p50 of their row are left to the JSON.
    """
    here = [each.row.machine for each in against.changes]
    names = short_names({machine: machines.get(machine, {}) for machine in here})
    medians = {
        (id(each.row), each.verdict) for each in against.changes if each.metric == "latency.p50"
    }
    found = []
    for verdict in ("worse", "better"):
        lines = [
            each
            for each in against.judged(verdict)
            if each.metric not in LIKE_P50 or (id(each.row), verdict) not in medians
        ]
        found += [_change(each, names) for each in lines[:MOST_CHANGES]]
    return found


def change_sentence(against: VersionComparison) -> str:
    """Return how many metrics of how many rows got worse and better."""
    worse, better = (len(against.judged(verdict)) for verdict in ("worse", "better"))
    same = len(against.changes) - worse - better
    gone = f" {len(against.gone)} rows of {against.name} were not measured." if against.gone else ""
    return (
        f"Against {against.name}, in {against.num_rows} rows of both: {worse} metrics got worse, "
        f"{better} better, {same} show no difference.{gone}"
    )


def _change(found: Change, machines: Mapping[str, str]) -> list[str]:
    value = found.value
    before = value.baseline.value if value.baseline else None
    unit = METRICS[found.metric].unit
    unsure = "" if found.metric in ONCE_A_FILE else ", no interval"
    sure = ratio_interval(value)
    text = percent(value.record.value, before) if unit != "fraction" else change(value)
    return [
        found.verdict,
        found.row.label,
        _place(found, machines),
        found.metric,
        quantity(before, unit),
        quantity(value.record.value, unit),
        f"{text} (times better: {sure})" if sure else f"{text}{unsure}",
    ]


def _place(found: Change, machines: Mapping[str, str]) -> str:
    row = found.row
    if found.metric in ONCE_A_FILE:
        return f"the file, profile {row.profile}" if row.profile else "the model"
    place = row.runtime if found.metric.startswith(ONCE_A_RUNTIME) else where(row)
    return f"{place}, {machines[row.machine]}" if len(machines) > 1 else place


def percent(now: float | None, before: float | None) -> str:
    """Return a change in percent, with its sign."""
    return NOTHING if now is None or not before else f"{(now / before - 1) * 100:+.1f} %"


def gate_rows(comparison: Comparison) -> list[tuple[bool, str, str, str]]:
    """Return every gate judged with the report: passed, gate, where, what was measured."""
    found: list[tuple[Row, Verdict]] = []
    for choice in comparison.best:
        found += [(choice.row, verdict) for verdict in choice.verdicts]
    found += comparison.against.verdicts if comparison.against else ()
    machines = comparison.machines
    names = short_names({row.machine: machines.get(row.machine, {}) for row, _ in found})
    return [
        (
            v.passed,
            v.gate,
            f"{row.label}, {where(row)}, {names.get(row.machine, row.machine)}",
            v.reason,
        )
        for row, v in sorted(found, key=lambda item: item[1].passed)
    ]
