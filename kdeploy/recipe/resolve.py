"""Resolve a recipe: every key checked against signatures, every default filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdeploy import registry
from kdeploy.bench.plan import BenchPlan
from kdeploy.compress.formats import check_takes_files
from kdeploy.data.contract import TaskReference
from kdeploy.data.data_files import with_tokenizer
from kdeploy.data.load import DataReference
from kdeploy.distill.config import DistillConfig
from kdeploy.errors import OrderError, RecipeError, UnknownName
from kdeploy.gate import Gate, parse_gates
from kdeploy.package.emission import Emission, emissions
from kdeploy.package.folding import Folding, folding_of
from kdeploy.recipe.dynamic import DynamicStep, dynamic_step
from kdeploy.recipe.files import artifact_place, moved_along, placed
from kdeploy.recipe.sections import (
    DataSection,
    PackageSection,
    RecipeSection,
    StudentSection,
    TeacherSection,
    spelled_out,
    weights_of,
)
from kdeploy.recipe.taught import taught, usually_taught
from kdeploy.store.artifact import MANIFEST, find_artifact
from kdeploy.store.references import ModelReference
from kdeploy.store.transformers_models import brings_weights, tokenizer_source
from kdeploy.tasks.contract import is_own
from kdeploy.training.config import TrainingConfig
from kdeploy.units import parse_drop

BESIDE_STEP = ("recover", "max_drop")
"""What every compression step takes beside its own parameters."""
RECOVER_RATE = {"learning_rate": 0.01}
"""Fine-tuning starts from learned weights: a tenth of the rate that trains from scratch."""
RECOVER_WEIGHTS = {"label_weight": 0.1, "losses": [{"kd": {}}]}
"""It is to find back to what the model before answered, and learns the labels beside that."""
CLASSES = TaskReference()
OWN_TRAINING = ("epochs", "learning_rate")
"""What a technique that trains has among its own parameters, and `recover` not again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedTeacher:
    """The teacher: a reference or an artefact, and how it gets its weights."""

    reference: ModelReference
    weights: Path | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    normalization: Mapping[str, list[float]] | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is `onnx:FILE`, which can be asked and not trained."""
        return self.reference.build.startswith("onnx:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One technique with its resolved parameters, and the recovery after it."""

    technique: str
    parameters: Mapping[str, Any]
    recover: DistillConfig | None = None
    """How it is trained: inside of a technique that trains, after any other one."""
    max_drop: float | None = None
    """The validation accuracy that it may cost after recovery, as a fraction; None: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A resolved recipe; `given` are the keys as written, after overrides."""

    name: str
    seed: int
    seeds: tuple[int, ...]
    """What the student is distilled under, `seed` first; empty where only that was given."""
    data: DataReference
    teacher: ResolvedTeacher
    student: ModelReference | None
    student_weights: Path | None
    """What the student begins with; None: as it is built."""
    distill: DistillConfig | None
    compress: tuple[Step, ...]
    export: tuple[Step, ...]
    dynamic: DynamicStep | None
    """A model of several of the exported files, that decides by its input."""
    bench: BenchPlan
    gates: tuple[Gate, ...]
    budgets: tuple[Gate, ...] | None
    folding: Folding | None
    """Where the packaged file is to prepare its pictures by itself."""
    emitted: tuple[Emission, ...]
    """What the bundle brings for the place that it goes to."""
    given: Mapping[str, Any]
    folder: Path


def parse(given: Mapping[str, Any], *, folder: Path) -> Recipe:
    """Return the recipe of plain keys and values; relative paths start at `folder`."""
    top = registry.check(RecipeSection, given, where="recipe")
    if top.written_in is not None:
        given = {k: v for k, v in given.items() if k != "written_in"}
        given = moved_along(given, was=top.written_in, now=folder.resolve())
        top = registry.check(RecipeSection, given, where="recipe")
    teacher = _teacher(top.teacher, folder)
    seed, seeds = top.all_seeds()
    task = task_reference(top.task)
    steps = tuple(step(s, f"compress[{i}]", folder, task) for i, s in enumerate(top.compress))
    check_order(steps)
    if (top.student is None) != (top.distill is None):
        missing, present = ("distill", "student") if top.student else ("student", "distill")
        raise RecipeError(
            f"recipe: `{present}` without `{missing}`",
            hint=f"add `{missing}:`, or leave both out to compress the teacher itself",
        )
    if teacher.is_file and top.student is None:
        for index, compression in enumerate(steps):
            check_takes_files(compression.technique, where=f"compress[{index}]")
            _refuse_recovery(compression, f"compress[{index}]")
    package = None
    if top.package is not None:
        package = registry.check(PackageSection, top.package, where="package")
    return Recipe(
        name=top.name,
        seed=seed,
        seeds=seeds,
        data=data_reference(
            top.data,
            folder,
            seed,
            task=task,
            normalize=_sees_normalized(teacher),
            tokenizer=tokenizer_source(teacher.reference.build, folder),
        ),
        teacher=teacher,
        student=_student(top.student, folder) if top.student is not None else None,
        student_weights=_student_weights(top.student, folder) if top.student else None,
        distill=_distill_config(usually_taught(top.distill, task), "distill", folder)
        if top.distill is not None
        else None,
        compress=steps,
        export=_exports(top.export),
        dynamic=dynamic_step(top.dynamic) if top.dynamic is not None else None,
        bench=registry.check(BenchPlan, top.bench, where="bench"),
        gates=parse_gates(top.gates),
        budgets=parse_gates(package.budgets, where="package.budgets") if package else None,
        folding=folding_of(
            package is not None and package.fold_preprocessing,
            package is not None and package.fold_suppression,
        ),
        emitted=emissions(package.emit, "package.emit") if package else (),
        given={**given, "teacher": top.teacher, "student": top.student},
        folder=folder,
    )


def _refuse_recovery(compression: Step, where: str) -> None:
    if compression.recover is not None:
        raise RecipeError(
            f"{where}: the teacher is an ONNX file, and nothing made of it can be trained",
            hint="leave `recover` out, or add `student` and `distill`",
        )


def check_order(steps: Sequence[Step]) -> None:
    """Refuse chains that the techniques' facts rule out.

    Raises:
        OrderError: a step comes after one that it has to precede.
    """
    for later in range(len(steps)):
        name = steps[later].technique
        before = registry.find("compressor", name).facts.get("before") or set()
        for earlier in range(later):
            if steps[earlier].technique in before:
                raise OrderError(
                    f"compress[{later}]: `{name}` cannot come after"
                    f" `{steps[earlier].technique}` (compress[{earlier}])",
                    hint=f"put `{name}` before `{steps[earlier].technique}`",
                )


def task_reference(given: Any) -> TaskReference:
    """Return the task of a `task:` key, a name or `{name: {its parameters}}`, resolved."""
    name, parameters = registry.parse_one_key(spelled_out(given), "task")
    if not is_own(name):
        known = registry.find("task", name, where="task")
        parameters = registry.validate(known.parameters, parameters, where=f"task.{name}")
    return TaskReference(name=name, parameters=parameters)


def data_reference(
    given: Mapping[str, Any],
    folder: Path,
    seed: int,
    *,
    task: TaskReference = CLASSES,
    normalize: bool = False,
    tokenizer: Path | None = None,
) -> DataReference:
    """Return the data of a `data:` section; relative paths start at `folder`.

    Args:
        given: The section.
        folder: Of the recipe.
        seed: Of the validation part.
        task: What the targets mean.
        normalize: Whether items are normalised by the training part where the section is silent.
        tokenizer: The model's own, for text that names none.
    """
    own = {k: v for k, v in given.items() if k in DataSection.model_fields}
    rest = {k: v for k, v in given.items() if k not in own}
    section = registry.check(DataSection, own, where="data")
    if ":" not in section.name:
        known = registry.find("dataset", section.name, where="data.name")
        names = {p.name for p in known.parameters}
        for key in rest:
            if key not in names:
                raise UnknownName.among(
                    "key", key, names | set(DataSection.model_fields), where="data"
                )
        rest = registry.validate(known.parameters, rest, where="data")
    if rest.get("validation") is not None and "validation_fraction" in given:
        raise RecipeError(
            "data: `validation` names a part, so `validation_fraction` of train has no sense",
            hint="leave one of both out",
        )
    reference = DataReference(
        name=section.name,
        parameters=rest,
        validation_fraction=section.validation_fraction,
        augment=tuple(section.augment),
        seed=seed,
        folder=folder.resolve(),
        task=task,
        normalize=normalize if section.normalize is None else section.normalize,
    )
    return with_tokenizer(reference, tokenizer)


def _sees_normalized(teacher: ResolvedTeacher) -> bool:
    """Return whether the teacher learns, or has learned, from items normalised by train.

    One whose weights come from elsewhere was trained on items as somebody else made them.
    """
    known = find_artifact(teacher.reference.build)
    if known is not None:
        reference = (known.manifest.get("data") or {}).get("reference") or {}
        return bool(reference.get("normalize", False))
    return teacher.weights is None and not teacher.is_file and teacher.training.epochs != 0


def _teacher(given: Mapping[str, Any], folder: Path) -> ResolvedTeacher:
    section = registry.check(TeacherSection, given, where="teacher")
    weights = weights_of(section, folder, "teacher", "to train the teacher")
    if section.build.startswith("onnx:") and (weights is not None or section.train):
        raise RecipeError(
            f"teacher: `{section.build}` has its weights and cannot be trained",
            hint="leave `weights` and `train` out",
        )
    build = artifact_place(section.build, folder)
    if weights is not None and (Path(build) / MANIFEST).is_file():
        raise RecipeError(
            f"teacher: `{section.build}` is an artefact and has its weights",
            hint="leave `weights` out, or name the model's function as `build`",
        )
    if (section.mean is None) != (section.std is None):
        raise RecipeError("teacher: `mean` and `std` go together", hint="give both or none")
    own = {"mean": section.mean, "std": section.std} if section.mean and section.std else None
    # What has its weights is not trained unless somebody says how.
    train = section.train or ({"epochs": 0} if brings_weights(build, folder) else {})
    return ResolvedTeacher(
        reference=ModelReference(build=build, args=section.args, folder=folder),
        weights=weights,
        training=registry.check(TrainingConfig, train, where="teacher.train"),
        normalization=own,
    )


def _student(given: Mapping[str, Any], folder: Path) -> ModelReference:
    section = registry.check(StudentSection, given, where="student")
    return ModelReference(build=section.build, args=section.args, folder=folder)


def _student_weights(given: Mapping[str, Any], folder: Path) -> Path | None:
    section = registry.check(StudentSection, given, where="student")
    return weights_of(section, folder, "student", "to begin as built")


def step(
    entry: Mapping[str, Any], where: str, folder: Path = Path(), task: TaskReference = CLASSES
) -> Step:
    """Return one compression step of `{technique: {its parameters}}`; paths start at `folder`."""
    name, given = registry.parse_one_key(entry, where)
    technique = registry.find("compressor", name, where=where)
    own = {p.name for p in technique.parameters}
    for key in given:
        if key not in own | set(BESIDE_STEP):
            raise UnknownName.among("key", key, own | set(BESIDE_STEP), where=f"{where}.{name}")
    beside = {key: given.get(key) if key in own else given.pop(key, None) for key in BESIDE_STEP}
    parameters = registry.validate(technique.parameters, given, where=f"{where}.{name}")
    drop = beside["max_drop"]
    recover = _recovery(technique, parameters, beside["recover"], f"{where}.{name}", folder, task)
    if technique.facts.get("makes") or technique.facts.get("sparse"):
        _refuse_updates(recover, f"{where}.{name}", by=name)
    return Step(
        technique=name,
        parameters=parameters,
        recover=recover,
        max_drop=None if drop is None else parse_drop(str(drop), where=f"{where}.{name}.max_drop"),
    )


def _recovery(
    technique: registry.Technique,
    parameters: Mapping[str, Any],
    given: Any,
    where: str,
    folder: Path,
    task: TaskReference,
) -> DistillConfig | None:
    """Return how a step is trained; a technique that trains has epochs and rate of its own."""
    if technique.facts.get("trains"):
        given = registry.mapping(given, f"{where}.recover")
        own = {key: parameters[key] for key in OWN_TRAINING}
        twice = sorted(given.keys() & own.keys())
        if twice:
            raise RecipeError(
                f"{where}.recover: `{twice[0]}` is a key of `{technique.name}` itself",
                hint=f"write `{technique.name}: {{{twice[0]}: {given[twice[0]]}}}`",
            )
        found = taught({**_recovered_by(task), **given, **own}, task)
        return _distill_config(found, f"{where}.recover", folder)
    if given is None:
        return None
    if technique.facts.get("recoverable") is False:
        raise RecipeError(
            f"{where}: `{technique.name}` gives a model that cannot be trained, so `recover` has "
            "no sense",
            hint="recover the step before it",
        )
    given = registry.mapping(given, f"{where}.recover")
    # Updates of low rank start from nothing: their rate is sought.
    rate = RECOVER_RATE if given.get("lora") is None else {}
    chosen = taught({**rate, **_recovered_by(task), **given}, task)
    return _distill_config(chosen, f"{where}.recover", folder)


def _recovered_by(task: TaskReference) -> Mapping[str, Any]:
    """Return what a recovery learns where it says nothing; of no classes, the task's own loss."""
    return RECOVER_WEIGHTS if task == CLASSES else {}


def _distill_config(given: Mapping[str, Any], where: str, folder: Path) -> DistillConfig:
    """Return how a student learns; the files of its scheme are absolute."""
    config = registry.check(DistillConfig, given, where=where)
    name = config.scheme_name
    own = placed(config.scheme_parameters, folder, f"{where}.scheme.{name}")
    return config.model_copy(update={"scheme": {name: own}})


def _refuse_updates(recover: DistillConfig | None, where: str, *, by: str) -> None:
    if recover is not None and recover.lora is not None:
        raise RecipeError(
            f"{where}.recover.lora: its updates change every weight of a layer, and `{by}` makes"
            " zeros or integers that have to stay",
            hint="leave `lora` out, or recover with it in a step before",
        )


def _exports(entries: Sequence[Mapping[str, Any]]) -> tuple[Step, ...]:
    steps = tuple(_export(entry, f"export[{i}]") for i, entry in enumerate(entries))
    for later in range(len(steps)):
        if steps[later] in steps[:later]:
            first = steps.index(steps[later])
            raise RecipeError(
                f"export[{later}] is the same as export[{first}]: `{steps[later].technique}` with"
                " equal parameters",
                hint="leave one of them out",
            )
    return steps


def _export(entry: Mapping[str, Any], where: str) -> Step:
    name, given = registry.parse_one_key(entry, where)
    technique = registry.find("exporter", name, where=where)
    parameters = registry.validate(technique.parameters, given, where=f"{where}.{name}")
    return Step(technique=name, parameters=parameters)
