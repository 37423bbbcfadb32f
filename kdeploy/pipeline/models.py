"""Models of a run: the teacher, the student, and the steps that change them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdeploy.artifact import Artifact, file_sha256, find_artifact
from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.data.contract import Dataset
from kdeploy.distill.run import distill
from kdeploy.errors import ModelError
from kdeploy.payload import load_model, reference_of, save_model
from kdeploy.pipeline.session import Made, Session
from kdeploy.recipe.resolve import Step, Teacher, Teaching
from kdeploy.references import ModelReference, build_model, source_sha256
from kdeploy.structure import count_macs, count_parameters
from kdeploy.training import FitContext, FitResult, Supervised, accuracy, fit

if TYPE_CHECKING:
    from torch import nn


def make_teacher(session: Session, teacher: Teacher) -> Artifact:
    """Return the teacher: an artefact as it is, given weights, or trained here."""
    known = find_artifact(teacher.reference.build, [session.store.root])
    if known is not None:
        return session.store.adopt(known)
    if teacher.weights is not None:
        return _import_weights(session, teacher.reference, teacher.weights)
    return _train(session, teacher.reference, teacher.training, label="teacher", stage="teacher")


def make_student(
    session: Session, reference: ModelReference, teacher: Artifact, recipe: Teaching, spec: Teacher
) -> Artifact:
    """Return the student, distilled from the teacher."""

    def make(work: Path) -> Made:
        student = fresh_model(reference, session.seed)
        result = distill(
            student,
            load_model(teacher),
            _data(session),
            _fit_context(session, work, "distil the student"),
            teacher_normalization=spec.normalization,
            **_teaching(recipe),
        )
        scores = {**_scores(result.fit), "teacher_validation_accuracy": result.teacher_accuracy}
        session.audience.said(
            f"validation accuracy: teacher {result.teacher_accuracy:.2%}, student best"
            f" {result.fit.best_accuracy:.2%}, last {result.fit.last_accuracy:.2%}"
        )
        return made_model(session, result.model, reference, scores)

    return session.step(
        kind="torch",
        stage="distill",
        technique=recipe.scheme,
        label="student",
        make=make,
        # The student's own beginning is its build reference; the teacher is what it learns from.
        parents=[teacher],
        parameters={"student": _facts(reference), **_teaching(recipe)},
        source=source_sha256(reference),
    )


def make_baseline(session: Session, reference: ModelReference, recipe: Teaching) -> Artifact:
    """Return the same student trained for as long on labels alone."""
    return _train(session, reference, recipe.training, label="baseline", stage="distill")


def make_step(session: Session, before: Artifact, step: Step, label: str) -> Artifact:
    """Return the model after one compression step and its recovery."""

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
            result = distill(model, original, data, fitting, **_teaching(step.recover))
            scores["validation_accuracy_unrecovered"] = scores["validation_accuracy"]
            scores |= _scores(result.fit)
            model = result.model
        session.audience.said(
            f"validation accuracy: {scores['validation_accuracy_before']:.2%} before,"
            f" {scores['validation_accuracy']:.2%} after {step.technique}"
        )
        return made_model(session, model, reference_of(before), scores)

    recover = {"recover": _teaching(step.recover)} if step.recover else {}
    return session.step(
        kind="torch",
        stage="compress",
        technique=step.technique,
        label=label,
        make=make,
        parents=[before],
        parameters={**step.parameters, **recover},
    )


def fresh_model(reference: ModelReference, seed: int) -> nn.Module:
    """Return the model as initialised under the seed, without disturbing other randomness."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(reference)


def load_weights(model: nn.Module, file: Path) -> nn.Module:
    """Return the model with the tensors of a safetensors file.

    Raises:
        ModelError: the file is no safetensors, or names and shapes do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} is not a safetensors file: {error}",
            hint="convert once: safetensors.torch.save_file(model.state_dict(), FILE);"
            " pickled weights are not read, they can run code",
        ) from None
    _check_fit(model, tensors, file)
    model.load_state_dict(tensors, strict=True)
    return model.eval()


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
        facts={"parameters": count_parameters(base), "macs": count_macs(base, example)},
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


def _check_fit(model: nn.Module, tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    expected = model.state_dict()
    missing = sorted(set(expected) - set(tensors))
    extra = sorted(set(tensors) - set(expected))
    wrong = [
        f"`{k}` is {tuple(tensors[k].shape)}, the model has {tuple(expected[k].shape)}"
        for k in expected
        if k in tensors and tensors[k].shape != expected[k].shape
    ]
    problems = [f"`{name}` is missing" for name in missing[:1]] + wrong[:1]
    problems += [f"`{name}` is not in the model" for name in extra[:1]]
    if problems:
        raise ModelError(
            f"the weights {file} do not fit the model: {'; '.join(problems)}"
            f" ({len(missing)} missing, {len(wrong)} of another shape, {len(extra)} unknown)",
            hint="check `args`: width, depth and classes have to be those it was trained with",
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
