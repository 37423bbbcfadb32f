"""Distil: check student, teacher and losses, build the objective, let the scheme train."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from kdeploy import registry
from kdeploy.data.contract import Dataset, Preprocessing
from kdeploy.distill.contract import SchemeContext
from kdeploy.distill.lessons import Lesson, lessons_of
from kdeploy.distill.objective import DistillObjective
from kdeploy.distill.teacher import Renormalizer, Teacher, teacher_preprocessing
from kdeploy.errors import ModelError
from kdeploy.fitting.device import device_named
from kdeploy.training import FitContext, FitResult, accuracy, num_outputs

NOTHING: Mapping[str, Any] = MappingProxyType({})
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillResult:
    """The student as trained, and what it is to be compared with."""

    model: nn.Module
    fit: FitResult
    """Of the scheme's last training."""
    teacher_accuracy: float
    """On the validation part, as a fraction."""


def distill(
    student: nn.Module,
    teacher: nn.Module,
    data: Dataset,
    context: FitContext,
    *,
    scheme: str = "offline",
    scheme_parameters: Mapping[str, Any] = NOTHING,
    losses: Sequence[Mapping[str, Mapping[str, Any] | None]] = ({"kd": {}},),
    label_weight: float = 0.1,
    training: Mapping[str, Any] = NOTHING,
    teacher_normalization: Mapping[str, Sequence[float]] | None = None,
) -> DistillResult:
    """Train the student in place to know what the teacher knows.

    Args:
        student: Learns; ends on the CPU, in eval mode.
        teacher: Is asked in eval mode; its weights and statistics do not change.
        data: Batches of its training part are shown to both.
        context: Seed, device, folder of the checkpoints, who watches.
        scheme: Who teaches whom, a file of `distill/schemes`.
        scheme_parameters: The scheme's own.
        losses: `[{name: {own parameters, weight, layers: {student path: teacher path}}}]`.
        label_weight: Weight of the cross-entropy with the true labels; 0 needs no labels.
        training: Keyword arguments of `training.fit`.
        teacher_normalization: `mean` and `std` that the teacher was trained with, where they are
            not the data's.

    Raises:
        UnknownName: a scheme, loss, key or layer that does not exist.
        RecipeError: a value out of range, or nothing to learn.
        ModelError: models that do not fit each other, the data or the losses.
    """
    technique = registry.find("scheme", scheme, where="distill")
    parameters = registry.validate(
        technique.parameters, scheme_parameters, where=f"distill.{scheme}"
    )
    lessons = lessons_of(losses)
    _check_classes(student, teacher, data)
    knows = teacher_preprocessing(data.preprocessing, teacher_normalization)
    factory = _Factory(lessons, label_weight, data, knows, context.seed)
    scheming = SchemeContext(data=data, fit=context, training=training, label_weight=label_weight)
    device = str(device_named(context.device))
    teacher_accuracy = accuracy(teacher, data.validation, knows, device=device)
    logger.info("the teacher's validation accuracy is %.4f", teacher_accuracy)
    model = technique.load()([student], [teacher], factory, scheming, **parameters)
    return DistillResult(model=model, fit=scheming.results[-1], teacher_accuracy=teacher_accuracy)


@dataclass(frozen=True, slots=True)
class _Factory:
    """Makes objectives: what schemes get as `objective`."""

    lessons: Sequence[Lesson]
    label_weight: float
    data: Dataset
    teacher_preprocessing: Preprocessing
    seed: int

    def __call__(self, student: nn.Module, teacher: nn.Module) -> DistillObjective:
        own, other = self.data.preprocessing, self.teacher_preprocessing
        renormalize = None if own == other else Renormalizer(own, other)
        example = torch.from_numpy(own.apply(self.data.train.x[:2]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)  # the adapters' first weights
            return DistillObjective(
                student,
                Teacher(teacher, renormalize),
                self.lessons,
                label_weight=self.label_weight,
                example=example,
            )


def _check_classes(student: nn.Module, teacher: nn.Module, data: Dataset) -> None:
    learns = num_outputs(student, data, name="student")
    knows = num_outputs(teacher, data, name="teacher")
    if not learns == knows == data.num_classes:
        raise ModelError(
            f"the student has {learns} outputs, the teacher {knows}, and {data.name} has "
            f"{data.num_classes} classes; all three have to agree",
            hint=f"build both models for {data.num_classes} classes (see `args` of their build "
            "functions), or use the data that the teacher was trained on",
        )
