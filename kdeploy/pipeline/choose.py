"""Which of the exported files goes to the device, and why.

Files are chosen by what they are worth on the validation part, and the one that was chosen is
judged on the test part: its numbers there had no part in the choice, so they are not too good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdeploy.bench.plan import BenchPlan
from kdeploy.gate import Gate, Verdict, judge
from kdeploy.measurement import METRICS, Measurement, select
from kdeploy.package.kinds import formats
from kdeploy.pipeline.exported import Exported
from kdeploy.runtimes.run import formats_of
from kdeploy.units import format_quantity

# Closer than this two latencies are one: then the smaller file wins.
PRACTICAL_DIFFERENCE = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenFile:
    """The file that won (None: it missed a gate), the verdicts on it, the reason in a sentence."""

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


def configuration_of(
    exported: Exported, configuration: Mapping[str, Any], runtimes: Sequence[str]
) -> Mapping[str, Any]:
    """Return where a file is judged: in the configuration of all, where that opens it.

    A file of another format is judged in the first of `runtimes` that does, as it would run there
    on the device.
    """
    if not runtimes:
        return configuration
    form = exported.file.kind
    able = [r for r in (configuration["runtime"], *runtimes) if form in formats_of(r)]
    return {**configuration, "runtime": (able or [configuration["runtime"]])[0]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What files and their teacher were measured to be, and what of it a choice may look at."""

    test: Sequence[Measurement]
    """All records; what is judged in them, on the test part."""
    validation: Sequence[Measurement]
    """What is judged, on the validation part; none where it has no labels or was not asked for."""
    teacher: str
    """The teacher's artefact id, the baseline of the gates."""
    is_teacher_ahead: bool = False
    """Whether the teacher, and no candidate, may have been trained on the validation part: then
    it is compared by what it is worth on the test part."""

    runtimes: Sequence[str] = ()
    """In which files were measured, for those that the configuration of all does not open."""

    @property
    def for_choice(self) -> Sequence[Measurement]:
        """Return the records with what is judged taken from the validation part."""
        if not self.validation:
            return self.test
        return [r for r in self.test if not METRICS[r.metric].is_judged] + list(self.validation)

    @property
    def baseline(self) -> Sequence[Measurement]:
        """Return the teacher's records that candidates are chosen against."""
        known = self.test if self.is_teacher_ahead else self.for_choice
        return [r for r in known if r.artifact == self.teacher]

    def place_of(self, exported: Exported, configuration: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return where a file is judged, see `configuration_of`."""
        return configuration_of(exported, configuration, self.runtimes)

    def verdicts(
        self, gates: Sequence[Gate], exported: Exported, configuration: Mapping[str, Any]
    ) -> list[Verdict]:
        """Return the verdicts on a file that count: on the test part."""
        baseline = [r for r in self.test if r.artifact == self.teacher]
        place = self.place_of(exported, configuration)
        own = records_of(self.test, exported)
        return judge(gates, own, baseline, baseline_in=configuration, **place)


def choose(
    candidates: Sequence[Exported],
    evidence: Evidence,
    gates: Sequence[Gate],
    *,
    configuration: Mapping[str, Any],
) -> ChosenFile:
    """Return the fastest candidate that passes all gates; of equally fast ones the smallest.

    Where none passes on the validation part, the one that fails the fewest gates is judged, of
    several the last: validation may be few items, and whether a gate holds is said by the test.

    Args:
        candidates: Exported files, in the order of the chain.
        evidence: What was measured.
        gates: What must hold.
        configuration: Runtime and batch size on which the teacher is judged, and all files that
            this runtime opens.
    """
    records = evidence.for_choice
    judged = [
        (
            c,
            judge(
                gates,
                records_of(records, c),
                evidence.baseline,
                baseline_in=configuration,
                **evidence.place_of(c, configuration),
            ),
        )
        for c in candidates
    ]
    if not judged:
        reason = "there is no file to choose from that a bundle ships"
        return ChosenFile(exported=None, verdicts=(), reason=reason)
    passed = [c for c, verdicts in judged if all(v.passed for v in verdicts)]
    winner = (
        _fastest(passed, evidence, configuration)
        if passed
        else min(reversed(judged), key=lambda each: sum(not v.passed for v in each[1]))[0]
    )
    verdicts = evidence.verdicts(gates, winner, configuration)
    failed = sum(not v.passed for v in verdicts)
    if failed:
        where = " on the test part" if passed and evidence.validation else ""
        before = (
            f"{winner.name} was chosen and" if where else f"no file passes all gates; {winner.name}"
        )
        reason = f"{before} fails {failed} of {len(gates)}{where}"
        return ChosenFile(exported=None, verdicts=tuple(verdicts), reason=reason)
    reason = _reason(winner, candidates, passed, evidence, configuration, bool(gates))
    if not passed:
        reason += "; on the validation part no file passed all gates, and this one failed fewest"
    return ChosenFile(exported=winner, verdicts=tuple(verdicts), reason=reason)


def _fastest(
    passed: Sequence[Exported], evidence: Evidence, configuration: Mapping[str, Any]
) -> Exported:
    metric = timed_by(passed)
    timed = [(c, _value(evidence, c, metric, configuration)) for c in passed]
    times = [t for _, t in timed if t is not None]
    if not times:
        # Nothing was timed: the last of the chain is what the recipe worked towards.
        return passed[-1]
    close = [c for c, t in timed if t is not None and t <= min(times) * (1 + PRACTICAL_DIFFERENCE)]
    return min(close, key=lambda c: int(c.file.facts["size"]))


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
    evidence: Evidence,
    configuration: Mapping[str, Any],
    has_gates: bool,
) -> str:
    target, metric = configuration["runtime"], timed_by(passed)
    own = evidence.place_of(winner, configuration)["runtime"]

    def shown(exported: Exported) -> str:
        latency = format_quantity(_value(evidence, exported, metric, configuration), "s")
        size = format_quantity(exported.file.facts["size"], "B")
        runtime = evidence.place_of(exported, configuration)["runtime"]
        place = "" if runtime == own else f" on {runtime}"
        return f"{exported.name} ({latency}{place}, {size})"

    by = " by its mean" if metric == "latency.mean" else ""
    gates = "passes all gates" if has_gates else "ends the chain"
    others = [shown(c) for c in passed if c is not winner]
    failed = [c.name for c in candidates if c not in passed and c is not winner]
    text = f"{shown(winner)} {gates}"
    beside = "" if own == target else f" beside files on {target}"
    text += f" and is the fastest on {own}{beside}{by}" if winner in passed else ""
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
    evidence: Evidence, exported: Exported, metric: str, configuration: Mapping[str, Any]
) -> float | None:
    place = evidence.place_of(exported, configuration)
    found = select(records_of(evidence.for_choice, exported), metric, **place)
    return next((r.value for r in found if r.value is not None), None)
