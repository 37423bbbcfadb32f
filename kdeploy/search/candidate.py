"""One candidate: make its file, untrained, shortly or wholly trained; measure it, and the teacher.

All candidates share one store: what two of them begin with is made once, by whoever comes first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdeploy.bench.plan import TEST, BenchPlan, Part
from kdeploy.bench.run import BenchResult, ModelUnderTest
from kdeploy.bench.ssh.hosts import parse_host
from kdeploy.data.contract import Dataset
from kdeploy.data.load import load
from kdeploy.errors import RecipeError
from kdeploy.measurement import METRICS, Measurement, select
from kdeploy.pipeline.ahead import check_ahead
from kdeploy.pipeline.check import check
from kdeploy.pipeline.choose import target_configuration
from kdeploy.pipeline.exported import Exported
from kdeploy.pipeline.exporting import make_export, model_under_test
from kdeploy.pipeline.held_out import may_have_seen
from kdeploy.pipeline.measuring import make_measurements, result_of
from kdeploy.pipeline.models import make_baseline, make_student, make_teacher
from kdeploy.pipeline.on_hosts import bench_on_hosts
from kdeploy.pipeline.session import Session
from kdeploy.pipeline.steps import make_step
from kdeploy.recipe.resolve import Recipe, Step
from kdeploy.recipe.sections import STAGES
from kdeploy.registry import find
from kdeploy.runtimes.files import suffixes
from kdeploy.runtimes.run import formats_of
from kdeploy.search.elastic import cut_student
from kdeploy.search.versions import Version, shortened, untrained
from kdeploy.store.artifact import Artifact, Store
from kdeploy.store.transformers_models import WEIGHTS
from kdeploy.training.config import TrainingConfig

TEACHER, CANDIDATE = "teacher", "candidate"
DEVICE = "device"
"""Folder of a search, for what was measured over ssh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A file of a candidate, and what making it took."""

    file: ModelUnderTest
    teacher: ModelUnderTest
    score: float | None
    """The validation metric of the model in PyTorch; None where nothing was judged."""
    steps: dict[str, float]
    """Seconds by artefact of the steps that were made now."""
    found: list[str]
    """Artefacts of the steps that were found in the store."""
    begins_with: str | None = None
    """The weights of a student that was cut out, which a training may begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a candidate was measured to be, beside the teacher in the same rounds."""

    values: dict[str, float]
    baseline: dict[str, float]
    timed: tuple[float, float]
    reason: str = ""
    """Why there is nothing, where there is."""
    test: dict[str, float] = field(default_factory=dict)
    """What answers are worth on the test part, where that was asked for."""


def make(
    recipe: Recipe,
    store: Path,
    version: Version,
    share: float = 1.0,
    seed: int | None = None,
    *,
    shared: Recipe | None = None,
) -> Made:
    """Return the candidate's file as far as the version is trained.

    Args:
        recipe: The candidate.
        store: Where all candidates keep their steps.
        version: How far it is trained.
        share: Of its epochs, for the short one.
        seed: Of all that is made of the teacher; None: the recipe's. Data and teacher keep theirs.
        shared: The training that a `cut` candidate's student is cut out of.

    Raises:
        KdeployError: it cannot be made; the message says by what.
    """
    if version == "untrained":
        check_ahead(recipe, check(recipe), STAGES[: STAGES.index("package")])
    data = load(recipe.data)
    session = _session(recipe, store, data)
    step = _export_step(recipe)
    teacher = make_teacher(session, recipe.teacher)
    under = session if seed is None else replace(session, seed=seed)
    student = cut_student(under, recipe, shared, teacher) if version == "cut" and shared else None
    own = _version(recipe, version, share, len(data.train))
    made = _model(under, own, teacher, version, student)
    exported = [make_export(session, teacher, step)]
    # Of a short training the score is all that is wanted.
    exported += [make_export(under, made, step)] if version != "short" else exported
    # The second of two equal steps is found: it took nothing anew.
    seconds = {s.artifact: s.wall_time_s for s in session.stages if not s.cached}
    score = made.scores.get("validation_accuracy")
    return Made(
        teacher=_labelled(exported[0], TEACHER),
        file=_labelled(exported[1], CANDIDATE),
        score=None if score is None else float(score),
        steps=seconds,
        found=[s.artifact for s in session.stages if s.artifact not in seconds],
        begins_with=None if student is None else str(student.folder / WEIGHTS),
    )


def measure(
    recipe: Recipe,
    store: Path,
    files: Sequence[ModelUnderTest],
    *,
    parts: tuple[Part, ...] = (),
    use_cache: bool = True,
    host: str | None = None,
) -> list[Measured]:
    """Return what each file but the first, the teacher's, was measured to be beside it.

    Args:
        recipe: Says in which runtime and how, by `bench`.
        store: Where finished measurements are kept.
        files: The teacher's, then those of candidates.
        parts: On which answers are judged; none: only speed and size.
        use_cache: Whether earlier measurements of the same files count.
        host: Where they are timed; None: on this machine. Answers are judged here.

    Raises:
        Unavailable: the device cannot be reached, or lacks something.
    """
    session = replace(_session(recipe, store, load(recipe.data)), use_cache=use_cache)
    plan = recipe.bench.model_copy(update={**_target(recipe), "accuracy": bool(parts)})
    started, found = time.time(), BenchResult(measurements=[], comparisons=[])
    if parts or host is None:
        artifacts = make_measurements(
            session, files, plan, baseline=files[0].label, parts=parts or TEST
        )
        found = result_of(artifacts)
    if host is not None:
        found = _timed_there(session, files, plan, found, host)
    timed = (started, time.time())
    return [_measured(recipe, file, files[0], found, timed) for file in files[1:]]


def _timed_there(
    session: Session,
    files: Sequence[ModelUnderTest],
    plan: BenchPlan,
    here: BenchResult,
    host: str,
) -> BenchResult:
    """Return what was judged here with what was timed on a device."""
    away = bench_on_hosts(
        session,
        files,
        plan.model_copy(update={"accuracy": False}),
        [parse_host(host)],
        session.store.root.parent / DEVICE,
        baseline=files[0].label,
    )
    judged = [r for r in here.measurements if METRICS[r.metric].is_judged]
    return replace(here, measurements=[*away.records, *judged])


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """What the teacher's answers are worth, and what making it took, in seconds by artefact."""

    values: dict[str, float]
    steps: dict[str, float]
    part: Part
    """Of the data, that it was judged on."""


def make_judged_teacher(recipe: Recipe, store: Path) -> Teacher:
    """Return what candidates are held against.

    On the validation part; where the teacher, and no student, may have been trained on it, on the
    test part: the teacher is given, so nothing is chosen by that.
    """
    data = load(recipe.data)
    session = _session(recipe, store, data)
    made = make_teacher(session, recipe.teacher)
    is_ahead = recipe.student is not None and may_have_seen(session, made)
    part: Part = "test" if is_ahead or not data.validation.is_labelled else "validation"
    file = _labelled(make_export(session, made, _export_step(recipe)), TEACHER)
    plan = recipe.bench.model_copy(update={**_target(recipe), "accuracy": True})
    found = result_of(make_measurements(session, [file], plan, baseline=None, parts=(part,)))
    records = found.measurements if part == "test" else found.validation
    values = {r.metric: r.value for r in records if METRICS[r.metric].is_judged}
    steps = {s.artifact: s.wall_time_s for s in session.stages if not s.cached}
    return Teacher(
        values={m: v for m, v in values.items() if v is not None}, steps=steps, part=part
    )


def check_measurable(recipe: Recipe) -> None:
    """Refuse a recipe none of whose files the runtime opens that gates are judged in.

    Raises:
        RecipeError: with the runtime's name.
    """
    _export_step(recipe)


def _session(recipe: Recipe, store: Path, data: Dataset) -> Session:
    return Session(store=Store(root=store), reference=recipe.data, data=data, seed=recipe.seed)


def _version(recipe: Recipe, version: Version, share: float, items: int) -> Recipe:
    if version in ("untrained", "cut"):
        return untrained(recipe)
    return shortened(recipe, share if version == "short" else 1.0, items)


def _model(
    session: Session,
    recipe: Recipe,
    teacher: Artifact,
    version: Version,
    student: Artifact | None = None,
) -> Artifact:
    model = student or teacher
    if student is None and recipe.student is not None and recipe.distill is not None:
        if version == "untrained":
            as_built = TrainingConfig(epochs=0)
            model = make_baseline(session, recipe.student, as_built, label="untrained")
        else:
            model = make_student(
                session,
                recipe.student,
                teacher,
                recipe.distill,
                recipe.teacher,
                label="student",
                begins_with=recipe.student_weights,
            )
    for step in recipe.compress:
        model = make_step(session, model, step, step.technique)
    return model


def _export_step(recipe: Recipe) -> Step:
    """Return the first export that the runtime opens in which gates are judged."""
    runtime = target_configuration(recipe.bench)["runtime"]
    for step in recipe.export:
        suffix = find("exporter", step.technique).facts["suffix"]
        if suffixes()[suffix] in formats_of(runtime):
            return step
    raise RecipeError(
        f"search measures exported files, and `{runtime}` opens none that the recipe exports",
        hint="add `- onnx: {}` to `export` and `onnxruntime_cpu` to `bench.runtimes`",
    )


def _target(recipe: Recipe) -> dict[str, Any]:
    """Return the one configuration that candidates are judged in, as keys of a plan."""
    plan = recipe.bench
    return {
        "runtimes": [target_configuration(plan)["runtime"]],
        "batch_sizes": plan.batch_sizes[:1],
        "threads": plan.threads[:1],
        "scenarios": plan.scenarios[:1],
        "sizes": plan.sizes[:1],
    }


def _labelled(exported: Exported, label: str) -> ModelUnderTest:
    return replace(model_under_test(exported.model, exported), label=label)


def _measured(
    recipe: Recipe,
    file: ModelUnderTest,
    teacher: ModelUnderTest,
    found: Any,
    timed: tuple[float, float],
) -> Measured:
    own = [r for r in found.measurements if r.label == file.label]
    others = [r for r in found.measurements if r.label == teacher.label]
    judged = [r for r in found.validation if r.label == file.label]
    values = _values(recipe, own)
    skipped = [r.skipped for r in own if r.metric == "latency.p50" and r.skipped]
    return Measured(
        values={**_unjudged(values), **_values(recipe, judged)},
        baseline=_unjudged(_values(recipe, others)),
        timed=timed,
        reason=skipped[0] or "" if skipped else "",
        test={m: v for m, v in values.items() if METRICS[m].is_judged},
    )


def _values(recipe: Recipe, records: Sequence[Measurement]) -> dict[str, float]:
    configuration = target_configuration(recipe.bench)
    known = {
        metric: next(iter(select(records, metric, **configuration)), None)
        for metric in dict.fromkeys(r.metric for r in records)
    }
    values = {m: r.value for m, r in known.items() if r is not None and r.value is not None}
    return {m: v for m, v in values.items() if math.isfinite(v)}


def _unjudged(values: Mapping[str, float]) -> dict[str, float]:
    return {m: v for m, v in values.items() if not METRICS[m].is_judged}
