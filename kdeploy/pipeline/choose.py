"""Which of the exported files goes to the device, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdeploy.bench.plan import BenchPlan
from kdeploy.gate import Gate, Verdict, judge
from kdeploy.measurement import Measurement, select
from kdeploy.package.kinds import formats
from kdeploy.pipeline.exported import Exported
from kdeploy.runtimes.run import formats_of
from kdeploy.units import format_quantity

# Closer than this two latencies are one: then the smaller file wins.
PRACTICAL_DIFFERENCE = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenFile:
    """The file that won (None: none passed), the verdicts on it, and the reason in a sentence."""

    exported: Exported | None
    verdicts: tuple[Verdict, ...]
    reason: str


def target_configuration(plan: BenchPlan) -> dict[str, Any]:
    """Return what gates are judged on: the first configuration that opens exported files."""
    runtimes = [r for r in plan.runtimes if formats() & formats_of(r)]
    scenario = plan.scenarios[0]
    configuration = {"runtime": (runtimes or plan.runtimes)[0], "scenario": scenario}
    # Of `offline` nobody knows the batch size beforehand.
    return (
        configuration
        if scenario == "offline"
        else {**configuration, "batch_size": plan.batch_sizes[0]}
    )


def choose(
    candidates: Sequence[Exported],
    records: Sequence[Measurement],
    gates: Sequence[Gate],
    *,
    teacher: str,
    configuration: Mapping[str, Any],
) -> ChosenFile:
    """Return the fastest candidate that passes all gates; of equally fast ones the smallest.

    Args:
        candidates: Exported files, in the order of the chain.
        records: All measurements.
        gates: What must hold.
        teacher: The teacher's artefact id, the baseline of the gates.
        configuration: Runtime and batch size on which all are judged.
    """
    baseline = [r for r in records if r.artifact == teacher]
    judged = [
        (c, judge(gates, records_of(records, c), baseline, **configuration)) for c in candidates
    ]
    passed = [c for c, verdicts in judged if all(v.passed for v in verdicts)]
    if not judged:
        reason = "there is no file to choose from that a bundle ships"
        return ChosenFile(exported=None, verdicts=(), reason=reason)
    if not passed:
        last, verdicts = judged[-1]
        failed = sum(not v.passed for v in verdicts)
        reason = f"no file passes all gates; {last.name} fails {failed} of {len(gates)}"
        return ChosenFile(exported=None, verdicts=tuple(verdicts), reason=reason)
    metric = timed_by(passed)
    timed = [(c, _value(records, c, metric, configuration)) for c in passed]
    times = [t for _, t in timed if t is not None]
    if not times:
        # Nothing was timed: the last of the chain is what the recipe worked towards.
        winner = passed[-1]
    else:
        close = [
            c for c, t in timed if t is not None and t <= min(times) * (1 + PRACTICAL_DIFFERENCE)
        ]
        winner = min(close, key=lambda c: int(c.file.facts["size"]))
    verdicts = next(v for c, v in judged if c is winner)
    return ChosenFile(
        exported=winner,
        verdicts=tuple(verdicts),
        reason=_reason(winner, candidates, passed, records, configuration, bool(gates)),
    )


def timed_by(files: Sequence[Exported]) -> str:
    """Return the latency that files are compared by: of a dynamic one the median says too little.

    Where more than half of its items leave early, the median is the time of those alone.
    """
    is_dynamic = any(file.model.kind == "dynamic" for file in files)
    return "latency.mean" if is_dynamic else "latency.p50"


def _reason(
    winner: Exported,
    candidates: Sequence[Exported],
    passed: Sequence[Exported],
    records: Sequence[Measurement],
    configuration: Mapping[str, Any],
    has_gates: bool,
) -> str:
    metric = timed_by(passed)

    def shown(exported: Exported) -> str:
        latency = format_quantity(_value(records, exported, metric, configuration), "s")
        size = format_quantity(exported.file.facts["size"], "B")
        return f"{exported.name} ({latency}, {size})"

    by = " by its mean" if metric == "latency.mean" else ""
    gates = "passes all gates" if has_gates else "ends the chain"
    others = [shown(c) for c in passed if c is not winner]
    failed = [c.name for c in candidates if c not in passed]
    text = f"{shown(winner)} {gates} and is the fastest on {configuration['runtime']}{by}"
    if others:
        text += f"; slower or larger: {', '.join(others)}"
    if failed:
        text += f"; failed a gate: {', '.join(failed)}"
    return text


def records_of(records: Sequence[Measurement], exported: Exported) -> list[Measurement]:
    """Return what was measured of one file."""
    wanted = ("", exported.profile)
    return [r for r in records if r.artifact == exported.model.id and r.profile in wanted]


def _value(
    records: Sequence[Measurement],
    exported: Exported,
    metric: str,
    configuration: Mapping[str, Any],
) -> float | None:
    found = select(records_of(records, exported), metric, **configuration)
    return next((r.value for r in found if r.value is not None), None)
