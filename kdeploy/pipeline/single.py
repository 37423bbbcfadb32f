"""One stage by itself: compress, export or package an artefact or a model reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kdeploy import registry
from kdeploy.bench.accuracy import evaluate
from kdeploy.data.data_files import with_tokenizer
from kdeploy.data.load import DataReference, load
from kdeploy.errors import FileMissing, ModelError, RecipeError
from kdeploy.export.run import check_that_it_runs
from kdeploy.gate import Gate
from kdeploy.measurement import METRICS
from kdeploy.package.budgets import check_budgets
from kdeploy.package.emission import Emission, check_emissions
from kdeploy.package.folding import Folding
from kdeploy.package.run import UNSIGNED
from kdeploy.package.signatures import Signing, check_signing
from kdeploy.package.verify import VerifyResult
from kdeploy.pipeline.ahead import FACTS
from kdeploy.pipeline.artifact_data import data_of, say_of_other_data, split_as_before
from kdeploy.pipeline.building import declared_inputs, onnx_path, teacher_model
from kdeploy.pipeline.check import check_model
from kdeploy.pipeline.exported import Exported
from kdeploy.pipeline.exporting import make_export
from kdeploy.pipeline.log import Log, RunListener
from kdeploy.pipeline.losing import warning_of_artifact
from kdeploy.pipeline.models import make_teacher
from kdeploy.pipeline.needed_labels import check_labels_of_step
from kdeploy.pipeline.onnx_trial import check_runs
from kdeploy.pipeline.outside_files import package_file, takes_several
from kdeploy.pipeline.packaging import BundleDescription, outputs_of, pack
from kdeploy.pipeline.purity import heard
from kdeploy.pipeline.rundir import (
    write_exports,
)
from kdeploy.pipeline.session import Session
from kdeploy.pipeline.steps import make_step
from kdeploy.pipeline.weights import load_weights
from kdeploy.recipe.resolve import ResolvedTeacher, Step
from kdeploy.runtimes.files import format_of
from kdeploy.store.artifact import Artifact, Store, find_artifact
from kdeploy.store.references import ModelReference, build_model
from kdeploy.store.transformers_models import brings_weights, tokenizer_source
from kdeploy.system.temporary import temporary_folder
from kdeploy.tasks.contract import judged_as, metrics_for, task_of
from kdeploy.training.config import TrainingConfig

ASKED_FOR = "asked for by name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a single stage starts from: an artefact, or a model reference with weights and data."""

    reference: str
    weights: Path | None = None
    as_built: bool = False
    """The function that makes the model gives it its weights."""
    args: Mapping[str, Any] = field(default_factory=dict)
    data: DataReference | None = None

    @property
    def is_trained(self) -> bool:
        """Whether the model that is built has its weights already."""
        return self.as_built or brings_weights(self.reference, Path())


def import_one(source: Source, out: Path, listener: RunListener) -> Artifact:
    """Return the artefact of a model as it is, stored in `out`."""
    return _begin(source, out, listener)[1]


def compress_one(source: Source, step: Step, out: Path, listener: RunListener) -> Artifact:
    """Return the artefact of one compression step, stored in `out`."""
    session, artifact = _begin(source, out, listener)
    if session.data is not None:
        check_labels_of_step(step, session.data)
    return make_step(session, artifact, step, step.technique)


def export_one(source: Source, step: Step, out: Path, listener: RunListener) -> Exported:
    """Return the exported file of one artefact, also under `out/exports`."""
    check_that_it_runs(step.technique)
    session, artifact = _begin(source, out, listener)
    exported = make_export(session, artifact, step)
    with session.files():
        write_exports(out, [exported])
    return exported


def _is_made_up(file: Path, data: DataReference) -> bool:
    """Return whether data are no items of a file's inputs, which then are made up in part."""
    return takes_several(file) and not load(data).preprocessing.inputs


def package_one(
    source: Source,
    budgets: Sequence[Gate],
    out: Path,
    listener: RunListener,
    signing: Signing = UNSIGNED,
    *,
    folding: Folding | None = None,
    asks_index: bool = False,
    emitted: Sequence[Emission] = (),
) -> VerifyResult:
    """Make the bundle of an artefact at `out`, a folder or zip; nothing stays when it fails.

    A torch artefact is exported for the CPU first.
    """
    check_signing(signing)
    reference = ModelReference(build=source.reference, args=source.args)
    file = onnx_path(reference)
    if file is not None and (source.data is None or _is_made_up(file, source.data)):
        check_budgets(budgets, FACTS, [])
        if folding is not None:
            raise ModelError(
                f"{file.name} has no data that say how its inputs are prepared and what its "
                "outputs mean: nothing can be folded",
                hint="name them (`--data`), or leave `--fold-preprocessing` out",
            )
        data = load(source.data) if source.data is not None else None
        given = declared_inputs(reference)
        return package_file(
            file,
            given,
            data,
            budgets,
            out,
            listener,
            signing,
            emitted=emitted,
            asks_index=asks_index,
        )
    check_budgets(budgets, [*FACTS, *(name for name, m in METRICS.items() if m.is_judged)], [])
    with temporary_folder("package") as folder:
        session, artifact = _begin(source, folder, listener)
        exported = exported_file(session, artifact)
        check_emissions(emitted, format_of(exported.file.file))
        lost = warning_of_artifact(find_artifact(source.reference) or artifact)
        if lost:
            session.listener.message(f"warning: {lost}")
        about = BundleDescription(
            name=out.stem,
            accuracy=_test_accuracy(session, exported),
            chosen_because=f"{ASKED_FOR}; warning: {lost}" if lost else ASKED_FOR,
            signing=signing,
            folding=folding,
            asks_index=asks_index,
            emitted=emitted,
        )
        trial = folder / f"trial{out.suffix if out.suffix == '.zip' else ''}"
        result = pack(session, exported, trial, budgets, about)
        if result.passed:
            out.parent.mkdir(parents=True, exist_ok=True)
            result = pack(session, exported, out, budgets, about)
    return result


def _begin(source: Source, out: Path, listener: RunListener) -> tuple[Session, Artifact]:
    known = find_artifact(source.reference, [out / "artifacts"])
    if known is not None and source.data is not None:
        data: DataReference | None = split_as_before(source.data, known)
    else:
        data = source.data or (data_of(known) if known else None)
    if data is None:
        raise RecipeError(
            f"`{source.reference}` does not say which data it is for",
            hint="name it, e.g. `--data digits`; artefacts know theirs",
        )
    data = with_tokenizer(data, tokenizer_source(source.reference, Path()))
    with heard() as of_model:
        if known is None:
            _check_source(source, data)
        else:
            _check_artifact(source, known)
    session = session_of(out, data, listener)
    for sentence in of_model:
        session.listener.message(sentence)
    if known is not None:
        if known.kind == "onnx" and known.folder.parent.resolve() != session.store.root.resolve():
            check_runs(known.file)
        say_of_other_data(session, [known])
        return session, session.store.adopt(known)
    reference = ModelReference(build=source.reference, args=source.args)
    # Trained for no epoch: the model as its function returns it.
    is_as_built = source.is_trained and source.weights is None
    training = TrainingConfig(epochs=0) if is_as_built else TrainingConfig()
    teacher = ResolvedTeacher(reference=reference, weights=source.weights, training=training)
    return session, make_teacher(session, teacher)


def _check_artifact(source: Source, known: Artifact) -> None:
    """Refuse what an artefact has itself, and would be passed over."""
    given = {"--weights": source.weights, "--as-built": source.as_built, "--args": source.args}
    for option in (name for name, value in given.items() if value):
        raise RecipeError(
            f"`{source.reference}` is the artefact `{known.label}`, which has its model and weights"
            f": `{option}` would have no effect",
            hint=f"leave `{option}` out, or name the model's function in place of the artefact",
        )


def _check_source(source: Source, data: DataReference) -> None:
    """Refuse before anything is written what cannot be built, loaded or fed."""
    reference = ModelReference(build=source.reference, args=source.args)
    if onnx_path(reference) is not None:
        _check_file(source, reference, data)
        return
    model = build_model(reference)
    if source.weights is None and not source.is_trained:
        raise RecipeError(
            f"`{source.reference}` has no weights",
            hint="add `--weights FILE.safetensors`, or `--as-built` where the function loads them; "
            "`kdeploy run` trains a model",
        )
    if source.weights is not None:
        if not source.weights.is_file():
            raise FileMissing(
                f"there is no file {source.weights}", hint="check the path of --weights"
            )
        load_weights(model, source.weights)
    # A function that gives its model the weights gives each model the same.
    check_model(model, load(data), "model", again=partial(build_model, reference))


def _check_file(source: Source, reference: ModelReference, data: DataReference) -> None:
    if source.weights is not None:
        raise RecipeError(
            f"`{source.reference}` has its weights in the file", hint="leave `--weights` out"
        )
    loaded = load(data)
    check_model(teacher_model(reference, loaded.preprocessing), loaded, "model")


def session_of(out: Path, data: DataReference | None, listener: RunListener) -> Session:
    """Return a session over the store in `out`, which is made once the data has been read."""
    loaded = load(data) if data is not None else None
    out.mkdir(parents=True, exist_ok=True)
    session = Session(
        store=Store(root=out / "artifacts"),
        reference=data,
        data=loaded,
        seed=data.seed if data is not None else 0,
        listener=Log(out / "log.jsonl", listener),
    )
    session.sweep()
    session.say_of_data()
    return session


def exported_file(session: Session, artifact: Artifact) -> Exported:
    """Return the file of an artefact: itself, or made of a torch model with the defaults."""
    if artifact.kind != "torch":
        return Exported(model=_model_of(artifact), file=artifact)
    parameters = registry.find("exporter", "onnx").parameters
    step = Step(technique="onnx", parameters=registry.validate(parameters, {}, where="onnx"))
    return make_export(session, artifact, step)


def _test_accuracy(session: Session, exported: Exported) -> dict[str, float]:
    """Return the task's main metric of the very file on the test part; nothing without labels."""
    assert session.data is not None, "a bundle is made of an artefact, and that knows its data"
    if not session.data.test.is_labelled:
        return {}
    found, _ = evaluate(partial(outputs_of, exported.file.file), session.data, batch_size=1)
    main = next(iter(metrics_for(judged_as(task_of(session.data)))))
    return {main: found[main]} if main in found else {}


def _model_of(file: Artifact) -> Artifact:
    """Return the model that a file is of: its folder, what the file knows of it, or the file."""
    if "model_artifact" not in file.manifest:
        return file  # it came as a file, or was made of one
    folder = file.folder.parent / str(file.manifest["model_artifact"])
    found = find_artifact(str(folder)) if folder.is_dir() else None
    if found is not None:
        return found
    if len(file.manifest["lineage"]) < 2:
        return file
    model = file.manifest["lineage"][-2]
    return Artifact(id=str(model["id"]), folder=folder, manifest={**model, "kind": "torch"})
