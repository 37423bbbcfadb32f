"""Run a recipe from the teacher to the verified bundle, each step once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kdeploy.bench.plan import TEST
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.control import TeacherEffect
from kdeploy.gate import Verdict
from kdeploy.measurement import Measurement
from kdeploy.package.folding import FOLDS_INTO
from kdeploy.package.kinds import formats
from kdeploy.pipeline.ahead import check_ahead
from kdeploy.pipeline.check import check
from kdeploy.pipeline.choose import Evidence, choose, configuration_of, target_configuration
from kdeploy.pipeline.control import teacher_effect
from kdeploy.pipeline.dynamic import make_dynamic_model
from kdeploy.pipeline.exported import Exported
from kdeploy.pipeline.exporting import make_exports, model_under_test, parity_records
from kdeploy.pipeline.failures import Failure, kept_for_later
from kdeploy.pipeline.held_out import may_have_seen
from kdeploy.pipeline.log import Log, NullListener, RunListener
from kdeploy.pipeline.losing import notes, warning
from kdeploy.pipeline.measuring import make_measurements, result_of
from kdeploy.pipeline.models import make_baseline, make_student, make_teacher
from kdeploy.pipeline.packaging import bundle_description, make_bundle
from kdeploy.pipeline.purity import heard
from kdeploy.pipeline.rundir import (
    write_bundle,
    write_exports,
    write_json,
    write_measurements,
    write_reports,
    write_text,
)
from kdeploy.pipeline.seeds import over_seeds
from kdeploy.pipeline.session import Session
from kdeploy.pipeline.steps import make_step
from kdeploy.pipeline.tensorboard import TensorBoard
from kdeploy.pipeline.training_csv import TrainingCsv
from kdeploy.pipeline.trial import check_by_trial
from kdeploy.recipe.read import to_yaml
from kdeploy.recipe.resolve import Recipe
from kdeploy.recipe.sections import STAGES
from kdeploy.report.comparison import Comparison
from kdeploy.store.artifact import Artifact, Store, disk_error
from kdeploy.store.references import ModelReference
from kdeploy.training.processes import joined
from kdeploy.untrusted.user_code import blamed


@dataclass(slots=True, kw_only=True)
class RunResult:
    """What a run came to; fields stay empty after the stage it was asked to stop at."""

    out: Path
    teacher: Artifact
    student: Artifact | None = None
    models: list[Artifact] = field(default_factory=list)
    baseline: Artifact | None = None
    students: list[Artifact] = field(default_factory=list)
    """One a seed, the first of them `student`; so with `baselines`."""
    baselines: list[Artifact] = field(default_factory=list)
    seeds: dict[str, Any] = field(default_factory=dict)
    effect: TeacherEffect | None = None
    """What the teacher did for the student, where that was compared."""
    exported: list[Exported] = field(default_factory=list)
    records: list[Measurement] = field(default_factory=list)
    validation: list[Measurement] = field(default_factory=list)
    """What files are worth on the validation part, by which one is chosen."""
    chosen: Exported | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    packaged: Exported | None = None
    chosen_because: str = ""
    failures: list[Failure] = field(default_factory=list)
    """What could not be exported or packaged; all else was done."""
    notes: list[str] = field(default_factory=list)
    """What the measurements say against files of the run, in sentences."""
    summary: dict[str, Any] = field(default_factory=dict)
    comparison: Comparison | None = None
    is_first: bool = True
    """Whether this process did all; the others only help to make models."""

    @property
    def passed(self) -> bool:
        return all(v.passed for v in self.verdicts) and not self.failures


def run(
    recipe: Recipe,
    out: Path,
    *,
    until: str | None = None,
    use_cache: bool = True,
    tensorboard: bool = False,
    csv_log: bool = False,
    devices: int = 1,
    num_nodes: int = 1,
    listener: RunListener | None = None,
) -> RunResult:
    """Run the recipe into a folder, going on where an earlier run of it stopped.

    Args:
        recipe: What to do.
        out: The folder of the run; its `artifacts/` is the store.
        until: The last stage to run, one of `STAGES`; None for all.
        use_cache: Whether stored artefacts count; False makes all anew.
        tensorboard: Whether to write events to `out/tensorboard`.
        csv_log: Whether to write a row an epoch to `out/training.csv`.
        devices: Processes on each machine that train together; `torchrun` has started them.
        num_nodes: Machines; they share the folder.
        listener: Who is told; nobody when left out.

    Raises:
        InputError: before anything was written.
    """
    processes = joined(devices, num_nodes)
    with processes.in_turn(), blamed(), heard() as of_models:
        data = check(recipe)
        stages = STAGES[: STAGES.index(until or STAGES[-1]) + 1]
        check_ahead(recipe, data, stages)
        if "export" in stages and not (out / "artifacts").is_dir():  # an earlier run has tried it
            check_by_trial(recipe, data)
    try:
        session = Session(
            store=Store(root=out / "artifacts"),
            reference=recipe.data,
            data=data,
            seed=recipe.seed,
            use_cache=use_cache,
            processes=processes,
        )
        if processes.is_first:
            session.listener = _log(out, listener or NullListener(), tensorboard, csv_log)
            with session.files():
                write_text(out / "recipe.yaml", to_yaml(recipe, written_in=out))
            session.sweep()
            session.say_of_data()
            for sentence in of_models:
                session.listener.message(sentence)
        with blamed():
            return _run(recipe, out, session, stages)
    except OSError as error:
        raise disk_error(error, out) from error


def _log(out: Path, listener: RunListener, tensorboard: bool, csv_log: bool) -> Log:
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out / "log.jsonl", listener)
    if tensorboard:
        log.callback = TensorBoard(out / "tensorboard", log.callback)
    if csv_log:
        log.callback = TrainingCsv(out / "training.csv", log.callback)
    return log


def _run(recipe: Recipe, out: Path, session: Session, stages: Sequence[str]) -> RunResult:
    teacher = make_teacher(session, recipe.teacher)
    result = RunResult(out=out, teacher=teacher, models=[teacher])
    if "distill" in stages and recipe.student is not None and recipe.distill is not None:
        _distill(recipe, recipe.student, recipe.distill, session, result)
    if "compress" in stages:
        _compress(recipe, session, result)
    if not session.processes.is_first:
        result.is_first = False
        return result
    if "export" in stages:
        extra = [result.baseline] if result.baseline else []
        for model in [*result.models, *extra]:
            result.exported += make_exports(session, model, recipe.export, result.failures)
        if recipe.dynamic is not None:
            with kept_for_later(result.failures, "dynamic", recipe.dynamic.technique, recipe.name):
                result.exported.append(make_dynamic_model(session, result.exported, recipe.dynamic))
        with session.files():
            write_exports(out, result.exported)
    if "bench" in stages:
        _measure(recipe, out, session, result)
        _choose(recipe, session, result)
        _say_what_loses(recipe, session, result)
    is_wanted = "package" in stages and recipe.budgets is not None
    # What is chosen among the files that are left may not be what is wanted.
    if is_wanted and result.chosen is not None and not result.failures:
        with kept_for_later(result.failures, "package", "bundle", result.chosen.model.label):
            _package(recipe, out, session, result)
    result.summary = _summary(session, result)
    with session.files():
        write_json(out / "summary.json", result.summary)
        if "bench" in stages:
            result.comparison = write_reports(out)
    return result


def _distill(
    recipe: Recipe,
    student: ModelReference,
    config: DistillConfig,
    session: Session,
    result: RunResult,
) -> None:
    """Make student and baseline once a seed; the first of each goes on."""
    for place, seed in enumerate(recipe.seeds or (recipe.seed,)):
        under, ending = replace(session, seed=seed), f"-seed{seed}" if place else ""
        if config.baseline:
            label = f"baseline{ending}"
            result.baselines.append(make_baseline(under, student, config, label=label))
        label = f"student{ending}"
        made = make_student(
            under,
            student,
            result.teacher,
            config,
            recipe.teacher,
            label=label,
            begins_with=recipe.student_weights,
        )
        result.students.append(made)
        if not place:
            beside = next(iter(result.baselines), None)
            result.effect = teacher_effect(under, student, config, made, beside)
    result.student, result.baseline = result.students[0], next(iter(result.baselines), None)
    result.models.append(result.student)
    result.notes += [result.effect.sentence] if result.effect else []
    if recipe.seeds:
        result.seeds = over_seeds(session, result.students, result.baselines)
        note = (
            f"{kind} {of['mean']:.2%}" + (f" ± {100 * of['std']:.2f} pp" if "std" in of else "")
            for kind, of in result.seeds.items()
        )
        session.listener.message(f"test accuracy, mean of {len(recipe.seeds)}: {', '.join(note)}")


def _compress(recipe: Recipe, session: Session, result: RunResult) -> None:
    seen: Counter[str] = Counter()
    for step in recipe.compress:
        seen[step.technique] += 1
        times = seen[step.technique]
        label = step.technique if times == 1 else f"{step.technique}-{times}"
        result.models.append(make_step(session, result.models[-1], step, label))


def _measure(recipe: Recipe, out: Path, session: Session, result: RunResult) -> None:
    extra = [result.baseline] if result.baseline else []
    under_test = [model_under_test(m) for m in [*result.models, *extra] if m.kind == "torch"]
    under_test += [model_under_test(e.model, e) for e in result.exported]
    is_labelled = session.data is not None and session.data.validation.is_labelled
    measured = make_measurements(
        session,
        under_test,
        recipe.bench,
        baseline=result.teacher.label,
        parts=("test", "validation") if is_labelled and recipe.bench.accuracy else TEST,
    )
    found = result_of(measured)
    found.measurements.extend(r for e in result.exported for r in parity_records(e))
    result.records, result.validation = found.measurements, found.validation
    with session.files():
        write_measurements(out, found)


def _choose(recipe: Recipe, session: Session, result: RunResult) -> None:
    """Judge the gates; without gates only the end of the chain is a candidate."""
    made = [m.id for m in result.models[1:]] or [result.teacher.id]
    if not recipe.gates:
        ends = [m for m in result.models if not m.is_quantized][-1:] + result.models[-1:]
        made = [m.id for m in ends]
    shipped = FOLDS_INTO if recipe.folding is not None else formats()
    dynamic = [e.model.id for e in result.exported if e.model.kind == "dynamic"]
    made = [*made, *dynamic] if recipe.gates else dynamic or made
    candidates = [e for e in result.exported if e.model.id in made and e.file.kind in shipped]
    evidence = Evidence(
        test=result.records,
        validation=result.validation,
        teacher=result.teacher.id,
        # A student is trained on what is not held out; what is made of the teacher itself is not.
        is_teacher_ahead=result.student is not None and may_have_seen(session, result.teacher),
        runtimes=recipe.bench.runtimes,
    )
    choice = choose(
        candidates, evidence, recipe.gates, configuration=target_configuration(recipe.bench)
    )
    result.chosen = choice.exported
    result.verdicts = list(choice.verdicts)
    result.chosen_because = choice.reason


def _say_what_loses(recipe: Recipe, session: Session, result: RunResult) -> None:
    """Say why INT8 does not pay, and warn where the chosen file has nothing to be chosen for."""
    files, models = result.exported, result.models
    configuration = target_configuration(recipe.bench)
    lines = notes(files, models, result.records, configuration)
    if result.chosen is not None:
        place = configuration_of(result.chosen, configuration, recipe.bench.runtimes)
        lost = warning(result.chosen, files, models, result.records, place)
        if lost:
            result.chosen_because += f"; warning: {lost}"
            lines.append(f"warning: {lost}")
    for line in lines:
        session.listener.message(line)
    result.notes += lines


def _package(recipe: Recipe, out: Path, session: Session, result: RunResult) -> None:
    chosen, budgets = result.chosen, recipe.budgets or ()
    assert chosen is not None, "packaging needs a chosen file"
    target = target_configuration(recipe.bench)
    about = bundle_description(
        chosen,
        result.teacher,
        result.records,
        configuration_of(chosen, target, recipe.bench.runtimes),
        baseline_in=target,
        name=recipe.name,
        because=result.chosen_because,
    )
    about = replace(about, folding=recipe.folding, emitted=recipe.emitted)
    bundle, verdict = make_bundle(session, chosen, budgets, about)
    with session.files():
        write_bundle(out, bundle.folder)
    result.packaged = chosen
    result.verdicts += [
        Verdict(
            gate=f"bundle: {check['check']}",
            value=check.get("value"),
            passed=bool(check["passed"]),
            reason=str(check.get("reason", "")),
        )
        for check in verdict.checks
    ]


def _summary(session: Session, result: RunResult) -> dict[str, Any]:
    return {
        "teacher": result.teacher.id,
        "student": result.student.id if result.student else None,
        "packaged": result.packaged.model.id if result.packaged else None,
        "packaged_profile": result.packaged.profile if result.packaged else None,
        "chosen": result.chosen.model.id if result.chosen else None,
        "chosen_because": result.chosen_because,
        "notes": [*(f.reason for f in result.failures), *result.notes],
        **({"teacher_effect": result.effect.to_dict()} if result.effect else {}),
        **({"failures": [f.to_dict() for f in result.failures]} if result.failures else {}),
        "gates": [v.to_dict() for v in result.verdicts],
        **({"seeds": result.seeds} if result.seeds else {}),
        "stages": [asdict(s) for s in session.stages],
    }
