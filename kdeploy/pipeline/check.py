"""What can be known to be wrong before any work: data, models, weights, layer names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from kdeploy import registry
from kdeploy.data.contract import Dataset
from kdeploy.data.further_items import with_unlabelled
from kdeploy.data.item_types import layout_hint
from kdeploy.data.load import load
from kdeploy.data.text_tokens import check_same_tokens
from kdeploy.distill.comparable import check_comparable
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.default_layers import with_layers
from kdeploy.distill.feature_hooks import INPUT
from kdeploy.distill.loss_specs import loss_specs_of
from kdeploy.distill.task_fit import check_task
from kdeploy.errors import RecipeError, UnknownName
from kdeploy.pipeline.building import (
    auxiliary_model,
    auxiliary_models,
    fresh_model,
    model_of_teacher,
    onnx_path,
    teacher_model,
)
from kdeploy.pipeline.needed_labels import check_labels
from kdeploy.pipeline.probabilities import check_logits, takes_logits
from kdeploy.pipeline.purity import check_pure, two_batches
from kdeploy.pipeline.real_items import check_real_items
from kdeploy.pipeline.weights import load_weights
from kdeploy.recipe.resolve import Recipe, Step
from kdeploy.store.artifact import find_artifact
from kdeploy.store.references import ModelReference, build_model
from kdeploy.store.transformers_models import tokenizer_source
from kdeploy.tasks.contract import is_of_classes, task_of
from kdeploy.torch_module.model_outputs import answer_of, in_eval, joined
from kdeploy.torch_module.named_inputs import tensors_of
from kdeploy.training.defaults import batch_size
from kdeploy.training.lora import target_layers

if TYPE_CHECKING:
    from torch import nn


def check(recipe: Recipe) -> Dataset:
    """Return the loaded data after checking all that can be checked without work.

    Raises:
        InputError: of the kind that fits; nothing was written.
    """
    data = load(recipe.data)
    check_labels(recipe, data)
    for teaching in (recipe.distill, *(step.recover for step in recipe.compress)):
        if teaching is not None:
            check_task(teaching, task_of(data).name)
    _check_tokenizers(recipe)
    teacher = _checked_teacher(recipe, data)
    if recipe.student is not None and recipe.distill is not None:
        student = fresh_model(recipe.student, recipe.seed)
        if recipe.student_weights is not None:
            student = load_weights(student, recipe.student_weights).model
        check_model(
            student,
            data,
            "student",
            again=partial(build_model, recipe.student),
            batch_sizes={
                "distill.batch_size": batch_size(recipe.distill, len(data.train)),
                **_recovering(recipe, data),
            },
        )
        _check_layers(recipe.distill, student, teacher, data, "distill")
        check_comparable(student, teacher, data, recipe.distill.losses)
        _check_scheme(recipe.distill, student, data, "distill")
        if recipe.distill.lora is not None:
            target_layers(student, recipe.distill.lora.targets, data)
    before = student if recipe.student is not None else teacher
    for index, step in enumerate(recipe.compress):
        if step.recover is not None:
            _check_graph_losses(step, f"compress[{index}]")
            _check_layers(step.recover, before, before, data, f"compress[{index}].recover")
            _check_scheme(step.recover, before, data, f"compress[{index}].recover")
    return data


def _check_tokenizers(recipe: Recipe) -> None:
    """Refuse a student whose token ids mean other tokens than the teacher's."""
    if recipe.student is None:
        return
    references = (recipe.teacher.reference, recipe.student)
    teacher, student = (tokenizer_source(r.build, r.folder) for r in references)
    if teacher is not None and student is not None and teacher != student:
        check_same_tokens(teacher, student)


def check_model(
    model: nn.Module,
    data: Dataset,
    role: str,
    *,
    again: Callable[[], nn.Module] | None = None,
    batch_sizes: Mapping[str, int] | None = None,
    needs_logits: bool = False,
) -> None:
    """Refuse a model that does not take the data's items, answers another class count, or differs.

    Args:
        model: Is used up, see `check_pure`.
        data: What it is to answer.
        role: Who it is, e.g. "teacher".
        again: Makes the model once more; None for one that comes as a file.
        batch_sizes: Of the trainings to come, by key; None for a model that is only asked.
        needs_logits: Whether another model learns from it.
    """
    batches = two_batches(data)
    hint = layout_hint(data.preprocessing.shape) or (
        f"check `{role}.args` (input channels, tokens?) and the shape of {data.name}"
    )
    task = task_of(data)
    of_classes = is_of_classes(task.name)
    answer = answer_of(model, batches[0], role=f"the {role}", hint=hint, several=not of_classes)
    task.check_answer(answer, data, who=f"the {role}")
    out = joined(answer)
    with in_eval(model):
        check_real_items(model, data, role)
    if (needs_logits or batch_sizes is not None) and takes_logits(task.name):
        check_logits(model, batches[0], out, f"the {role}")
    check_pure(model, batches, out, f"the {role}", again=again, batch_sizes=batch_sizes)


def _checked_teacher(recipe: Recipe, data: Dataset) -> nn.Module:
    reference = recipe.teacher.reference
    known = find_artifact(reference.build)
    is_file = known is not None or recipe.teacher.is_file
    model = (
        model_of_teacher(known)
        if known is not None
        else teacher_model(reference, data.preprocessing)
    )
    sizes = {} if recipe.student else _recovering(recipe, data)
    if recipe.teacher.weights is not None:
        load_weights(model, recipe.teacher.weights)
    elif not is_file and recipe.teacher.training.trains:
        training = recipe.teacher.training
        sizes["teacher.train.batch_size"] = batch_size(training, len(data.train))
    check_model(
        model,
        data,
        "teacher",
        again=None if is_file else partial(build_model, reference),
        batch_sizes=sizes or None,
        needs_logits=recipe.student is not None,
    )
    return model


def _recovering(recipe: Recipe, data: Dataset) -> dict[str, int]:
    """Return the batch sizes of all trainings of steps, by key."""
    return {
        f"compress[{index}].recover.batch_size": batch_size(step.recover, len(data.train))
        for index, step in enumerate(recipe.compress)
        if step.recover is not None
    }


def _check_scheme(config: DistillConfig, student: nn.Module, data: Dataset, where: str) -> None:
    """Build the further models of a scheme, and look at the layers and items that it names."""
    place = f"{where}.scheme.{config.scheme_name}"
    for role, entry in auxiliary_models(config.scheme_parameters, place):
        _check_further(entry, config, data, role, where)
    facts, own = registry.find("scheme", config.scheme_name).facts, config.scheme_parameters
    known = [name for name, _ in student.named_modules() if name]
    for layer in own.get(facts.get("student_layers", ""), ()):
        if layer not in known:
            raise UnknownName.among("layer of the student", layer, known, where=place)
    items = own.get(facts.get("further_items", ""))
    if items is not None:
        with_unlabelled(data, items)


def _check_further(
    entry: Mapping[str, Any], config: DistillConfig, data: Dataset, role: str, where: str
) -> None:
    """Look at a further model of a scheme; neither a file nor with weights: trained."""
    reference = ModelReference(build=entry["build"], args=entry["args"])
    is_file = find_artifact(entry["build"]) is not None or onnx_path(reference) is not None
    sizes = {f"{where}.batch_size": batch_size(config, len(data.train))}
    check_model(
        auxiliary_model(entry, seed=0),  # looked at only: the scheme builds its own
        data,
        role,
        again=None if is_file else partial(build_model, reference),
        batch_sizes=None if is_file or entry["weights"] else sizes,
        needs_logits=True,
    )


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
    config: DistillConfig, student: nn.Module, teacher: nn.Module, data: Dataset, where: str
) -> None:
    """Look at the layers that losses name, and at those that are chosen where they name none."""
    wanting = [
        {loss: parameters}
        for entry in config.losses
        for loss, parameters in entry.items()
        if "layers" in parameters and parameters["layers"] is None
    ]
    example = tensors_of(data.preprocessing.example(2))
    with_layers(loss_specs_of(wanting), student, teacher, example)
    names = {"student": dict(student.named_modules()), "teacher": dict(teacher.named_modules())}
    for index, entry in enumerate(config.losses):
        for loss, parameters in entry.items():
            for pair in (parameters.get("layers") or {}).items():
                for role, path in zip(names, pair, strict=True):
                    layer = path.removesuffix(INPUT)
                    if layer not in names[role]:
                        place = f"{where}.losses[{index}].{loss}.layers"
                        known = [n for n in names[role] if n]
                        raise UnknownName.among(f"layer of the {role}", layer, known, where=place)
