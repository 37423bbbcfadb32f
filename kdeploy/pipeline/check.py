"""What can be known to be wrong before any work: data, models, weights, layer names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kdeploy import registry
from kdeploy.artifact import find_artifact
from kdeploy.data.contract import Dataset
from kdeploy.data.item_types import layout_hint
from kdeploy.data.load import load
from kdeploy.data.unlabelled import with_unlabelled
from kdeploy.distill.classifier_inputs import classifier
from kdeploy.distill.taps import INPUT
from kdeploy.errors import ModelError, RecipeError, UnknownName
from kdeploy.pipeline.building import (
    fresh_model,
    further_model,
    further_models,
    model_of_teacher,
    teacher_model,
)
from kdeploy.pipeline.real_items import check_real_items
from kdeploy.pipeline.weights import load_weights
from kdeploy.recipe.resolve import Recipe, Step
from kdeploy.recipe.teaching import Teaching

if TYPE_CHECKING:
    from torch import nn


def check(recipe: Recipe) -> Dataset:
    """Return the loaded data after checking all that can be checked without work.

    Raises:
        InputError: of the kind that fits; nothing was written.
    """
    data = load(recipe.data)
    teacher = _teacher(recipe)
    check_model(teacher, data, "teacher")
    if recipe.student is not None and recipe.distill is not None:
        student = fresh_model(recipe.student, recipe.seed)
        check_model(student, data, "student")
        _check_layers(recipe.distill, student, teacher, data, "distill")
        _check_scheme(recipe.distill, student, data, "distill")
    before = student if recipe.student is not None else teacher
    for index, step in enumerate(recipe.compress):
        if step.recover is not None:
            _check_graph_losses(step, f"compress[{index}]")
            _check_layers(step.recover, before, before, data, f"compress[{index}].recover")
            _check_scheme(step.recover, before, data, f"compress[{index}].recover")
    return data


def check_model(model: nn.Module, data: Dataset, role: str) -> None:
    """Refuse a model that does not take the data's items or answers another class count."""
    shape = data.preprocessing.shape
    wanted = (2, *data.train.y.shape[1:])
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            out = model(torch.from_numpy(data.preprocessing.example(2)))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ModelError(
            f"the {role} cannot take items of {data.name}, shape {shape}: {error}",
            hint=layout_hint(shape)
            or f"check `{role}.args` (input channels, tokens?) and the data's shape",
        ) from None
    finally:
        model.train(was_training)
    if not isinstance(out, torch.Tensor) or tuple(out.shape[:-1]) != wanted:
        found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise ModelError(
            f"the {role} returns {found}; expected logits {(*wanted, data.num_classes)}",
            hint="let the build function return a module whose forward gives one tensor of logits",
        )
    if out.shape[-1] != data.num_classes:
        raise ModelError(
            f"the {role} has {out.shape[-1]} classes, {data.name} has {data.num_classes}: "
            f"labels 0..{data.num_classes - 1}",
            hint=_classes_hint(out.shape[-1], data.num_classes, role),
        )
    model.eval()
    check_real_items(model, data, role)
    model.train(was_training)


def _classes_hint(found: int, wanted: int, role: str) -> str:
    args = "`--args`" if role == "model" else f"`{role}.args`"
    if found == 1:
        return (
            f"one output is a quantity (regression) or a score; build it with one a class: {wanted}"
        )
    hint = f"build it with {wanted} outputs (see {args}, e.g. `num_classes: {wanted}`)"
    if found < wanted:
        return f"{hint}, or leave out the items of the others"
    return f"{hint}; if the data has {found} classes, some without items: `data.classes: {found}`"


def _teacher(recipe: Recipe) -> nn.Module:
    known = find_artifact(recipe.teacher.reference.build)
    if known is not None:
        return model_of_teacher(known)
    model = teacher_model(recipe.teacher.reference)
    if recipe.teacher.weights is not None:
        load_weights(model, recipe.teacher.weights)
    return model


def _check_scheme(teaching: Teaching, student: nn.Module, data: Dataset, where: str) -> None:
    """Build the further models of a scheme, and look at the layers and items that it names."""
    place = f"{where}.scheme.{teaching.scheme}"
    for role, entry in further_models(teaching.scheme_parameters, place):
        check_model(further_model(entry, seed=0), data, role)
    facts, own = registry.find("scheme", teaching.scheme).facts, teaching.scheme_parameters
    known = [name for name, _ in student.named_modules() if name]
    for layer in own.get(facts.get("student_layers", ""), ()):
        if layer not in known:
            raise UnknownName.among("layer of the student", layer, known, where=place)
    items = own.get(facts.get("further_items", ""))
    if items is not None:
        with_unlabelled(data, items)


def _check_graph_losses(step: Step, where: str) -> None:
    """Refuse losses on inner layers where what is trained is a quantized graph, which has none."""
    facts = registry.find("compressor", step.technique).facts
    if step.recover is None or not facts.get("trains") or facts.get("recoverable", True):
        return
    for loss in (name for entry in step.recover.losses for name in entry):
        if registry.find("loss", loss).facts.get("needs", "logits") != "logits":
            raise RecipeError(
                f"{where}.recover: the loss `{loss}` reads inner layers, and `{step.technique}` "
                "trains a quantized graph, in which layers cannot be read",
                hint="teach it by its outputs, e.g. `losses: [{kd: {}}]`",
            )


def _check_layers(
    teaching: Teaching, student: nn.Module, teacher: nn.Module, data: Dataset, where: str
) -> None:
    """Look at the layers that losses name, and at the classifiers where they name none."""
    models = {"student": student, "teacher": teacher}
    names = {"student": dict(student.named_modules()), "teacher": dict(teacher.named_modules())}
    for index, entry in enumerate(teaching.losses):
        for loss, parameters in entry.items():
            if "layers" in parameters and parameters["layers"] is None:
                example = torch.from_numpy(data.preprocessing.example(2))
                for role, model in models.items():
                    classifier(model, example, role=role)
            for pair in (parameters.get("layers") or {}).items():
                for role, path in zip(names, pair, strict=True):
                    layer = path.removesuffix(INPUT)
                    if layer not in names[role]:
                        place = f"{where}.losses[{index}].{loss}.layers"
                        known = [n for n in names[role] if n]
                        raise UnknownName.among(f"layer of the {role}", layer, known, where=place)
