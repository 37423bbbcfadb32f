"""Models of a run: the teacher, the student, and the steps that change them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdeploy.artifact import Artifact, file_sha256, find_artifact
from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.data.contract import Dataset
from kdeploy.distill.contract import BuildModel
from kdeploy.distill.exits import count_without_exits
from kdeploy.distill.run import distill
from kdeploy.errors import ModelError
from kdeploy.payload import load_model, reference_of, save_model
from kdeploy.pipeline.building import (
    contents_sha256,
    fresh_model,
    further_model,
    load_weights,
    model_of_teacher,
    onnx_path,
    without_folders,
)
from kdeploy.pipeline.onnx_files import import_file, make_file_step
from kdeploy.pipeline.session import Made, Session
from kdeploy.recipe.resolve import Step, Teacher
from kdeploy.recipe.teaching import Teaching
from kdeploy.references import ModelReference, build_model, source_sha256
from kdeploy.structure import count_macs
from kdeploy.training import FitContext, FitResult, Supervised, accuracy, fit

if TYPE_CHECKING:
    from torch import nn


def make_teacher(session: Session, teacher: Teacher) -> Artifact:
    """Return the teacher: an artefact as it is, given weights, or trained here."""
    known = find_artifact(teacher.reference.build, [session.store.root])
    if known is not None:
        return session.store.adopt(known)
    file = onnx_path(teacher.reference)
    if file is not None:
        return import_file(session, _data(session), file)
    if teacher.weights is not None:
        return _import_weights(session, teacher.reference, teacher.weights)
    return _train(session, teacher.reference, teacher.training, label="teacher", stage="teacher")


def make_student(
    session: Session,
    reference: ModelReference,
    teacher: Artifact,
    recipe: Teaching,
    spec: Teacher,
    *,
    label: str = "student",
) -> Artifact:
    """Return the student, distilled from the teacher."""

    def make(work: Path) -> Made:
        student = fresh_model(reference, session.seed)
        result = distill(
            student,
            model_of_teacher(teacher),
            _data(session),
            _fit_context(session, work, "distil the student"),
            teacher_normalization=spec.normalization,
            build=_building(session),
            **_teaching(recipe),
        )
        scores = {
            **_scores(result.fit),
            "teacher_validation_accuracy": result.teacher_accuracy,
            **_further_scores(result.accuracies),
        }
        session.audience.said(
            f"validation accuracy: teacher {result.teacher_accuracy:.2%}, student best"
            f" {result.fit.best_accuracy:.2%}, last {result.fit.last_accuracy:.2%}"
        )
        for name, value in result.accuracies.items():
            session.audience.said(f"validation accuracy: {name} {value:.2%}")
        return made_model(session, result.model, reference, scores)

    return session.step(
        kind="torch",
        stage="distill",
        technique=recipe.scheme,
        label=label,
        make=make,
        # The student's own beginning is its build reference; the teacher is what it learns from.
        parents=[teacher],
        parameters={"student": _facts(reference), **without_folders(_teaching(recipe))},
        source=source_sha256(reference) + _source(session, recipe),
    )


def make_baseline(
    session: Session, reference: ModelReference, recipe: Teaching, *, label: str = "baseline"
) -> Artifact:
    """Return the same student trained for as long on labels alone."""
    return _train(session, reference, recipe.training, label=label, stage="distill")


def make_step(session: Session, before: Artifact, step: Step, label: str) -> Artifact:
    """Return the model after one compression step and its recovery."""
    if before.kind == "onnx":
        return make_file_step(session, _data(session), before, step, label)

    def make(work: Path) -> Made:
        data = _data(session)
        original = load_model(before)
        context = CompressContext(data=data, seed=session.seed)
        model = compress(original, step.technique, step.parameters, context)
        validation = data.validation
        scores = {
            "validation_accuracy_before": accuracy(original, validation, data.preprocessing),
            "validation_accuracy": accuracy(model, validation, data.preprocessing),
        }
        if step.recover is not None:
            name = f"recover after {label}"
            fitting = _fit_context(session, work, name)
            result = distill(
                model,
                original,
                data,
                fitting,
                build=_building(session),
                **_teaching(step.recover),
            )
            scores["validation_accuracy_unrecovered"] = scores["validation_accuracy"]
            scores |= {**_scores(result.fit), **_further_scores(result.accuracies)}
            model = result.model
        session.audience.said(
            f"validation accuracy: {scores['validation_accuracy_before']:.2%} before,"
            f" {scores['validation_accuracy']:.2%} after {step.technique}"
        )
        return made_model(session, model, reference_of(before), scores)

    recover = {"recover": without_folders(_teaching(step.recover))} if step.recover else {}
    return session.step(
        kind="torch",
        stage="compress",
        technique=step.technique,
        label=label,
        make=make,
        parents=[before],
        parameters={**step.parameters, **recover},
        source=_source(session, step.recover) if step.recover else "",
    )


def made_model(
    session: Session,
    model: nn.Module,
    reference: ModelReference,
    scores: Mapping[str, Any] | None = None,
) -> Made:
    """Return a torch model as something the session stores."""
    preprocessing = _data(session).preprocessing
    base: nn.Module = getattr(model, "base", model) if hasattr(model, "wrapper") else model
    example = torch.from_numpy(preprocessing.example(1))
    if scores is None:
        validation = _data(session).validation
        scores = {"validation_accuracy": accuracy(model, validation, preprocessing)}
    return Made(
        write=lambda folder: {"model": save_model(folder, model, reference)},
        facts={"parameters": count_without_exits(base), "macs": count_macs(base, example)},
        scores=scores,
    )


def _import_weights(session: Session, reference: ModelReference, weights: Path) -> Artifact:
    def make(work: Path) -> Made:
        del work  # nothing to go on from
        return made_model(session, load_weights(build_model(reference), weights), reference)

    return session.step(
        kind="torch",
        stage="teacher",
        technique="weights",
        label="teacher",
        make=make,
        parameters={"model": _facts(reference)},
        source=source_sha256(reference) + file_sha256(weights),
    )


def _train(
    session: Session,
    reference: ModelReference,
    training: Mapping[str, Any],
    *,
    label: str,
    stage: str,
) -> Artifact:
    def make(work: Path) -> Made:
        objective = Supervised(fresh_model(reference, session.seed))
        context = _fit_context(session, work, f"train the {label}")
        result = fit(objective, _data(session), context, **training)
        return made_model(session, objective.student.eval(), reference, _scores(result))

    return session.step(
        kind="torch",
        stage=stage,
        technique="train",
        label=label,
        make=make,
        parameters={"model": _facts(reference), **training},
        source=source_sha256(reference),
    )


def _fit_context(session: Session, work: Path, name: str) -> FitContext:
    return FitContext(
        seed=session.seed,
        work=work,
        cache=session.store.root.parent / "teacher_cache",
        name=name,
        watcher=session.audience.watcher,
        devices=session.processes.devices,
        num_nodes=session.processes.num_nodes,
    )


def _teaching(recipe: Teaching) -> dict[str, Any]:
    return {
        "scheme": recipe.scheme,
        "scheme_parameters": recipe.scheme_parameters,
        "losses": recipe.losses,
        "label_weight": recipe.label_weight,
        "cache_budget": recipe.cache_budget,
        "cache_top_k": recipe.cache_top_k,
        "training": recipe.training,
    }


def _building(session: Session) -> BuildModel:
    return partial(further_model, stores=[session.store.root])


def _source(session: Session, recipe: Teaching) -> str:
    """Return the digest of what the scheme's parameters name outside of the recipe."""
    return contents_sha256(recipe.scheme_parameters, [session.store.root])


def _further_scores(accuracies: Mapping[str, float]) -> dict[str, Any]:
    return {"further_validation_accuracies": dict(accuracies)} if accuracies else {}


def _scores(result: FitResult) -> dict[str, Any]:
    return {
        "validation_accuracy": (
            result.best_accuracy if result.kept == "best" else result.last_accuracy
        ),
        "best_epoch": result.best_epoch,
        "best_validation_accuracy": result.best_accuracy,
        "last_validation_accuracy": result.last_accuracy,
    }


def _facts(reference: ModelReference) -> dict[str, Any]:
    # Without the folder: the same file elsewhere makes the same model.
    return {"build": reference.build.rpartition("/")[2], "args": dict(reference.args)}


def _data(session: Session) -> Dataset:
    if session.data is None:
        raise ModelError(
            "this step needs data, and none is known", hint="name it, e.g. `--data digits`"
        )
    return session.data
