"""Models of a run: the teacher, the student, and the steps that change them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.fx import GraphModule

from kdeploy.data.contract import Dataset
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.contract import BuildModel
from kdeploy.distill.control import LOOK
from kdeploy.distill.exits import count_without_exits
from kdeploy.distill.run import DistillResult, distill
from kdeploy.errors import ModelError
from kdeploy.pipeline import held_out
from kdeploy.pipeline.building import (
    auxiliary_model,
    contents_sha256,
    fresh_model,
    model_of_teacher,
    onnx_path,
    without_folders,
)
from kdeploy.pipeline.onnx_files import import_file
from kdeploy.pipeline.session import Made, Session
from kdeploy.pipeline.storing import store_model, with_early_look
from kdeploy.pipeline.weight_files import weights_sha256
from kdeploy.pipeline.weights import load_weights
from kdeploy.quantization.contract import is_wrapped
from kdeploy.recipe.resolve import ResolvedTeacher
from kdeploy.sparsity.zeros import sparsity
from kdeploy.store.artifact import Artifact, find_artifact
from kdeploy.store.references import ModelReference, build_model, source_sha256
from kdeploy.tasks.contract import task_of
from kdeploy.torch_module.complexity import count_bytes, count_macs
from kdeploy.torch_module.named_inputs import tensors_of
from kdeploy.training.checkpoint import fingerprint_of
from kdeploy.training.config import TrainingConfig
from kdeploy.training.early_look import EarlyLook
from kdeploy.training.fit import Constraint, FitContext, FitResult, Supervised, fit

if TYPE_CHECKING:
    from torch import nn


def make_teacher(session: Session, teacher: ResolvedTeacher) -> Artifact:
    """Return the teacher, and tell what its validation accuracy is worth."""
    made = _teacher(session, teacher)
    held_out.say_of_start(session, made, judges=teacher.normalization is None)
    return made


def _teacher(session: Session, teacher: ResolvedTeacher) -> Artifact:
    """Return an artefact as it is, a file, given weights, or what is trained here."""
    known = find_artifact(teacher.reference.build, [session.store.root])
    if known is not None:
        return session.store.adopt(known)
    if onnx_path(teacher.reference) is not None:
        return import_file(session, teacher.reference)
    if teacher.weights is not None:
        return _import_weights(session, teacher.reference, teacher.weights)
    return _train(session, teacher.reference, teacher.training, label="teacher", stage="teacher")


def make_student(
    session: Session,
    reference: ModelReference,
    teacher: Artifact,
    config: DistillConfig,
    given_teacher: ResolvedTeacher,
    *,
    label: str = "student",
    begins_with: Path | None = None,
) -> Artifact:
    """Return the student, distilled from the teacher; it begins with given weights, or as built."""
    data = data_of(session)
    asked, config = config, config.for_classes(data.num_classes, task_of(data).name)
    if config is not asked:
        learned = ", ".join(f"`{name}`" for entry in config.losses for name in entry)
        session.listener.message(
            f"two classes: the student learns {learned} beside the labels; `dist`, which is "
            "usual, says nothing of the threshold between two"
        )

    def make(work: Path) -> Made:
        student, heard = fresh_model(reference, session.seed), list[str]()
        if begins_with is not None:
            student = load_weights(student, begins_with).model
        result = distill(
            student,
            model_of_teacher(teacher),
            data_of(session),
            fit_context(session, work, "distil the student", look=LOOK),
            config,
            teacher_normalization=given_teacher.normalization,
            build=building(session, heard),
        )
        scores = scores_of(result.fit)
        if data_of(session).validation.is_labelled:
            scores |= _beside_teacher(session, teacher, result, config)
        made = made_model(session, result.model, reference, scores)
        for sentence in result.messages:
            session.listener.message(sentence)
        report = {"weights": heard, "losses": result.messages, "training": told_of(result.fit)}
        return with_early_look(_with_report(made, report), result.fit)

    return session.step(
        kind="torch",
        stage="distill",
        technique=config.scheme_name,
        label=label,
        make=make,
        # The student's own beginning is its build reference; the teacher is what it learns from.
        parents=[teacher],
        parameters={"student": reference_facts(reference), **without_folders(config.identity())},
        source=source_sha256(reference)
        + source_of(session, config)
        + (weights_sha256(begins_with) if begins_with is not None else ""),
    )


def _beside_teacher(
    session: Session, teacher: Artifact, result: DistillResult, config: DistillConfig
) -> dict[str, Any]:
    """Tell how good the student and all beside it are, and return their scores."""
    is_seen = held_out.may_have_seen(session, teacher)
    teachers = held_out.shown(result.teacher_accuracy, is_seen=is_seen)
    session.listener.message(
        f"validation accuracy: teacher {teachers}, student best"
        f" {result.fit.best_accuracy:.2%}, last {result.fit.last_accuracy:.2%}"
    )
    further_is_seen = held_out.further_may_have_seen(session, config.scheme_parameters)
    for name, value in result.accuracies.items():
        shown = held_out.shown(value, is_seen=further_is_seen)
        session.listener.message(f"validation accuracy: {name} {shown}")
    return {
        "teacher_validation_accuracy": result.teacher_accuracy,
        **({held_out.SEEN_BEFORE: True} if is_seen else {}),
        **further_scores(result.accuracies),
    }


def make_baseline(
    session: Session, reference: ModelReference, config: TrainingConfig, *, label: str = "baseline"
) -> Artifact:
    """Return the same student trained for as long on labels alone."""
    return _train(session, reference, config, label=label, stage="distill")


def made_model(
    session: Session,
    model: nn.Module,
    reference: ModelReference,
    scores: Mapping[str, Any] | None = None,
) -> Made:
    """Return a torch model as something the session stores."""
    preprocessing = data_of(session).preprocessing
    base = model.base if is_wrapped(model) else model
    example = tensors_of(preprocessing.example(1))
    if scores is None:
        scores = held_out.scores_on_validation(session, model)
    return Made(
        write=lambda folder: {"model": store_model(folder, model, reference, data_of(session))},
        facts={
            "parameters": count_without_exits(base),
            "macs": count_macs(base, example),
            "sparsity": sparsity(base),
            "size": count_bytes(_computing(model)),
            **_scores_in_words(scores),
        },
        scores=scores,
    )


def _scores_in_words(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return, for whoever reads of the step, where its training was not computed as asked for."""
    because = scores.get("arithmetic", {}).get("because")
    return {"report": {"arithmetic": because}} if because else {}


def _computing(model: nn.Module) -> nn.Module:
    """Return what holds the tensors that are computed with: of an INT8 model the codes."""
    graph = getattr(model, "graph", None) if is_wrapped(model) else None
    # A fresh module takes over what its graph reads, and nothing else.
    return GraphModule(graph, graph.graph) if isinstance(graph, GraphModule) else model


def _import_weights(session: Session, reference: ModelReference, weights: Path) -> Artifact:
    def make(work: Path) -> Made:
        del work  # nothing to go on from
        loaded = load_weights(build_model(reference), weights)
        for sentence in loaded.messages:
            session.listener.message(f"the weights {weights.name}: {sentence}")
        scores = held_out.scores_of_given(session, loaded.model)
        made = made_model(session, loaded.model, reference, scores)
        made = replace(made, facts={**made.facts, "weights": weights.name})
        return _with_report(made, {"weights": loaded.messages})

    return session.step(
        kind="torch",
        stage="teacher",
        technique="weights",
        label="teacher",
        make=make,
        parameters={"model": reference_facts(reference)},
        source=source_sha256(reference) + weights_sha256(weights),
    )


def _with_report(made: Made, topics: Mapping[str, Sequence[str]]) -> Made:
    """Keep with the model what was chosen on the way: how weights fit, what losses compare."""
    own = {topic: list(say) for topic, say in topics.items() if say}
    report = {**made.facts.get("report", {}), **own}
    return replace(made, facts={**made.facts, "report": report}) if report else made


def _train(
    session: Session,
    reference: ModelReference,
    training: TrainingConfig,
    *,
    label: str,
    stage: str,
) -> Artifact:
    def make(work: Path) -> Made:
        objective = Supervised(fresh_model(reference, session.seed), task=task_of(data_of(session)))
        context = fit_context(session, work, f"train the {label}")
        result = fit(objective, data_of(session), context, training)
        # Trained for no epoch, it is what its function made it, with whatever weights that read.
        marks = {} if training.trains else held_out.marks_of_given(session)
        is_judged = data_of(session).validation.is_labelled
        scores = {**scores_of(result), **marks} if is_judged else {}
        return made_model(session, objective.student.eval(), reference, scores)

    return session.step(
        kind="torch",
        stage=stage,
        technique="train",
        label=label,
        make=make,
        parameters={"model": reference_facts(reference), **training.training_identity()},
        source=source_sha256(reference) + _as_built(session, reference, training),
    )


def _as_built(session: Session, reference: ModelReference, training: TrainingConfig) -> str:
    """Return the digest of the tensors of a model that is not trained: its function gave them."""
    return "" if training.trains else fingerprint_of({}, fresh_model(reference, session.seed))


def fit_context(
    session: Session,
    work: Path,
    name: str,
    *,
    constraints: tuple[Constraint, ...] = (),
    look: EarlyLook | None = None,
) -> FitContext:
    """Return how a training of this run is to be made; checkpoints lie in `work`."""
    return FitContext(
        seed=session.seed,
        work=work,
        cache=session.store.root.parent / "teacher_cache",
        name=name,
        constraints=constraints,
        look=look,
        callback=session.listener.callback,
        devices=session.processes.devices,
        num_nodes=session.processes.num_nodes,
    )


def building(session: Session, heard: list[str] | None = None) -> BuildModel:
    """Return the function that makes the further models of a scheme.

    Args:
        session: Whose store has artefacts, and whose audience is told.
        heard: Takes what is said of their weights.
    """

    def say(text: str) -> None:
        session.listener.message(text)
        if heard is not None and text not in heard:
            heard.append(text)

    return partial(auxiliary_model, stores=[session.store.root], say=say)


def source_of(session: Session, config: DistillConfig) -> str:
    """Return the digest of what the scheme's parameters name outside of the recipe."""
    return contents_sha256(config.scheme_parameters, [session.store.root])


def further_scores(accuracies: Mapping[str, float]) -> dict[str, Any]:
    """Return what the scheme's further models came to, as scores of an artefact."""
    return {"further_validation_accuracies": dict(accuracies)} if accuracies else {}


def scores_of(result: FitResult) -> dict[str, Any]:
    """Return how a training went, as scores of an artefact."""
    judged = {
        "validation_accuracy": (
            result.best_accuracy if result.kept == "best" else result.last_accuracy
        ),
        "best_epoch": result.best_epoch,
        "best_validation_accuracy": result.best_accuracy,
        "last_validation_accuracy": result.last_accuracy,
    }
    is_judged = isfinite(result.last_accuracy)  # items without labels judge nothing
    return {
        **(judged if is_judged else {}),
        "arithmetic": result.arithmetic.to_dict(),
        **({"training": chosen_in(result)} if result.chosen else {}),
    }


def told_of(result: FitResult) -> list[str]:
    """Return, for whoever reads of the step, how its training went where that was left open."""
    if not result.chosen:
        return []
    settings, rate = result.settings, result.rate
    is_tested = rate is not None and rate.steps
    how = f"by a range test of {rate.steps} steps" if rate and is_tested else "the usual one"
    said = {
        "optimizer": settings.optimizer,
        "learning_rate": f"rate {settings.learning_rate:g} ({how})",
        "weight_decay": f"weight decay {settings.weight_decay:g}",
        "warmup_epochs": f"{settings.warmup_epochs:g} epochs of warm-up",
        "clip_norm": f"gradients clipped at {settings.clip_norm:g}" if settings.clip_norm else "",
        "batch_size": f"batches of {settings.batch_size}",
        "epochs": f"{settings.epochs} epochs",
    }
    return [f"chosen: {', '.join(said[name] for name in said if name in result.chosen)}"]


def chosen_in(result: FitResult) -> dict[str, Any]:
    """Return how a training went where its configuration left that open."""
    return {**result.chosen, **({"range_test": result.rate.to_dict()} if result.rate else {})}


def reference_facts(reference: ModelReference) -> dict[str, Any]:
    """Return what identifies a model that is built, for the ids of artefacts."""
    # Without the folder: the same file elsewhere makes the same model.
    return {"build": reference.build.rpartition("/")[2], "args": dict(reference.args)}


def data_of(session: Session) -> Dataset:
    """Return the data of the run, or raise ModelError where none is known."""
    if session.data is None:
        raise ModelError(
            "this step needs data, and none is known", hint="name it, e.g. `--data digits`"
        )
    return session.data
