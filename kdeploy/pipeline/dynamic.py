"""A dynamic model as a step: several files that were exported become one that decides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdeploy import registry
from kdeploy.data.contract import Dataset
from kdeploy.data.load import DataReference
from kdeploy.distill.exits import ExitAnswers, Exits
from kdeploy.dynamic.calibration import Promise
from kdeploy.dynamic.contract import DynamicContext
from kdeploy.dynamic.run import make_dynamic
from kdeploy.errors import ModelError, RecipeError, UnknownName
from kdeploy.export.run import export
from kdeploy.onnx_graph.checks import content_sha256, copy_file
from kdeploy.onnx_graph.facts import count_parameters as count_parameters_of_file
from kdeploy.pipeline.artifact_data import data_of
from kdeploy.pipeline.exported import Exported
from kdeploy.pipeline.held_out import may_have_seen
from kdeploy.pipeline.log import RunListener
from kdeploy.pipeline.onnx_trial import check_runs
from kdeploy.pipeline.rundir import write_exports
from kdeploy.pipeline.session import Made, Session
from kdeploy.pipeline.single import exported_file, session_of
from kdeploy.recipe.dynamic import DynamicStep
from kdeploy.runtimes.contract import DYNAMIC
from kdeploy.store.artifact import ONNX, Artifact, find_artifact
from kdeploy.store.model_io import load_model
from kdeploy.torch_module.complexity import count_parameters


def make_dynamic_model(
    session: Session, exported: Sequence[Exported], step: DynamicStep
) -> Exported:
    """Return the dynamic model, its own model and file."""
    files = files_by_name(exported)
    used = [files[name] for name in step.names if name in files]

    def make(work: Path) -> Made:
        if session.data is None:
            raise ModelError("thresholds need data", hint="name it, e.g. `--data digits`")
        folder = work / "file"
        folder.mkdir(exist_ok=True)
        for left in folder.iterdir():  # of a run that was killed
            left.unlink()
        made = make_dynamic(
            step.technique,
            step.parameters,
            _context(files, session.data, work / "whole" / ONNX),
            folder / f"model{DYNAMIC}",
            session.data,
            step.promise,
            seed=session.seed,
        )
        size = sum(path.stat().st_size for path in folder.iterdir())
        counts = [_parameters(item, step) for item in used]
        known = [count for count in counts if count is not None]
        return Made(
            write=lambda target: _move(folder, target),
            facts={
                "size": size,
                "is_quantized": any(item.model.is_quantized for item in used),
                **({"parameters": sum(known)} if known and len(known) == len(counts) else {}),
                "dynamic": made.to_dict(),
            },
        )

    artifact = session.step(
        kind="dynamic",
        stage="dynamic",
        technique=step.technique,
        label=step.technique,
        make=make,
        parents=[item.file for item in used],
        parameters={
            **step.parameters,
            "risk": step.promise.risk,
            "confidence": step.promise.confidence,
        },
        source=json.dumps({name: item.file.id for name, item in sorted(files.items())}),
    )
    for sentence in sentences(artifact):
        session.listener.message(sentence)
    for item in used[:-1] or used:
        if may_have_seen(session, item.model):
            session.listener.message(
                f"warning: {item.model.label} may have been trained on the validation items, on "
                "which the threshold was chosen: then it is surer there than elsewhere, and the "
                "promise may not hold"
            )
    return Exported(model=artifact, file=artifact)


def dynamic_of_files(
    references: Sequence[str],
    technique: str,
    given: Mapping[str, Any],
    promise: Promise,
    out: Path,
    data: DataReference | None,
    listener: RunListener,
) -> Exported:
    """Return a dynamic model of artefacts and ONNX files, also under `out/exports`.

    Args:
        references: The parts, the smallest first.
        technique: The kind.
        given: Its parameters; none: all parts in their order.
        promise: What an early answer may cost.
        out: The folder.
        data: Whose validation part chooses the threshold; left out, that of the first artefact.
        listener: Who is told.

    Raises:
        RecipeError: nothing says which data it is for.
    """
    artifacts = {name: find_artifact(name, [out / "artifacts"]) for name in references}
    known = (data_of(artifact) for artifact in artifacts.values() if artifact is not None)
    data = data or next((found for found in known if found is not None), None)
    if data is None:
        raise RecipeError(
            f"nothing says which data {', '.join(references)} are for",
            hint="name it, e.g. `--data digits`",
        )
    session = session_of(out, data, listener)
    parts: list[Exported] = []
    for name, artifact in artifacts.items():
        if artifact is not None:
            parts.append(exported_file(session, session.store.adopt(artifact)))
        else:
            parts.append(_taken(session, Path(name.removeprefix("onnx:"))))
    parameters = registry.find("dynamic", technique).parameters
    labels = tuple(part.model.label for part in parts)
    names = {p.name for p in parameters}
    all_of_them = {"parts": labels} if "parts" in names else {"model": labels[0]}
    own = {**({} if "parts" in given else all_of_them), **given}
    step = DynamicStep(
        technique=technique,
        parameters=registry.validate(parameters, own, where=technique),
        promise=promise,
    )
    made = make_dynamic_model(session, parts, step)
    with session.files():
        write_exports(out, [made])
    return made


def _taken(session: Session, path: Path) -> Exported:
    """Return an ONNX file from elsewhere as an artefact, called by its name."""
    check_runs(path)

    def write(folder: Path) -> Mapping[str, Any]:
        copy_file(path, folder / ONNX)
        return {}

    facts = {"size": path.stat().st_size, "parameters": count_parameters_of_file(path)}
    artifact = session.step(
        kind="onnx",
        stage="teacher",
        technique="file",
        label=path.stem,
        make=lambda work: Made(write=write, facts=facts),
        source=content_sha256(path),
    )
    return Exported(model=artifact, file=artifact)


def _context(files: Mapping[str, Exported], data: Dataset, whole: Path) -> DynamicContext:
    return DynamicContext(
        files={name: item.file.file for name, item in files.items()},
        with_exits=lambda name, layers: exported_with_exits(files, name, layers, data, whole),
    )


def exported_with_exits(
    files: Mapping[str, Exported],
    name: str,
    layers: tuple[str, ...],
    data: Dataset,
    path: Path,
) -> tuple[Path, tuple[str, ...]]:
    """Return the file of a model with the answers of its exits, proven, and their layers.

    Raises:
        UnknownName: no model is called so, or a layer has no exit.
        ModelError: the model has none, or was quantized.
    """
    if name not in files:
        raise UnknownName.among("model with exits", name, files)
    item = files[name]
    if item.model.kind != "torch" or item.model.is_quantized:
        what = "quantized" if item.model.is_quantized else "a file"
        raise ModelError(
            f"{name} is {what}, and exits are made of the float network that was trained with them",
            hint="name that one: `dynamic: {exits: {model: student}}`",
        )
    answers = ExitAnswers(load_model(item.model), layers)
    export(answers, "onnx", item.file.manifest["parameters"], data, path)
    return path, answers.paths


def _parameters(item: Exported, step: DynamicStep) -> int | None:
    """Return what a model has learned, its exits included where they are asked."""
    count = item.model.facts.get("parameters")
    if "model" not in step.parameters or count is None:
        return count
    exits = Exits(load_model(item.model)).heads
    asked = step.layers or tuple(exits)
    return int(count) + sum(count_parameters(exits[layer]) for layer in asked)


def files_by_name(exported: Sequence[Exported]) -> dict[str, Exported]:
    """Return the ONNX files by what a recipe calls them: the label, the first of each model."""
    found: dict[str, Exported] = {}
    for item in exported:
        if item.file.kind == "onnx":
            found.setdefault(item.model.label, item)
            found.setdefault(item.name, item)
    return found


def sentences(artifact: Artifact) -> list[str]:
    """Return what people are told of a dynamic model."""
    told = artifact.facts["dynamic"]
    found, parts = told["calibration"], told["parts"]
    first = (
        f"{artifact.label} of {', then '.join(part['label'] for part in parts)}: an answer is "
        f"final where the largest probability is at least {parts[0]['threshold']:.3f}; on "
        f"{found['items']} validation items {found['early_share']:.1%} leave early, "
        f"{found['lost_items']} are lost by it"
    )
    second = (
        f"promised with confidence {found['confidence']:g}: at most {found['risk']:.2%} of items "
        f"are lost by early answers (Learn then Test, p = {found['p_value']:.2g})"
    )
    return [first, second]


def _move(source: Path, target: Path) -> Mapping[str, Any]:
    for path in source.iterdir():
        path.replace(target / path.name)
    return {"file": f"model{DYNAMIC}"}
