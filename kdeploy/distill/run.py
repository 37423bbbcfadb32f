"""Distil: check student, teacher and losses, build the objective, let the scheme train."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from kdeploy import registry
from kdeploy.data.augmentation import MIXES
from kdeploy.data.contract import NOT_COUNTED, Dataset, Preprocessing
from kdeploy.distill.cached_teacher import CachedTeacher
from kdeploy.distill.comparable import example_of, facts_of
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.contract import BuildModel, SchemeContext, cannot_build
from kdeploy.distill.control import too_weak
from kdeploy.distill.correctness import WeightOfWrong
from kdeploy.distill.default_layers import with_layers
from kdeploy.distill.loss_specs import LossSpec, loss_specs_of
from kdeploy.distill.objective import DistillObjective
from kdeploy.distill.schedules import Constant, Schedule
from kdeploy.distill.task_fit import check_task
from kdeploy.distill.teacher import Renormalizer, Teacher, teacher_preprocessing
from kdeploy.distill.teacher_cache import KeptLogits
from kdeploy.distill.teacher_protocol import TeacherProtocol
from kdeploy.distill.teachers import Ensemble
from kdeploy.errors import RecipeError
from kdeploy.system.temporary import temporary_folder
from kdeploy.tasks.contract import has_class_rows, has_item_scores, task_of
from kdeploy.training.device import device_named
from kdeploy.training.fit import FitContext, FitResult, accuracy, check_outputs

logger = logging.getLogger(__name__)
progress = logging.getLogger("kdeploy.progress")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillResult:
    """The student as trained, and what it is to be compared with."""

    model: nn.Module
    fit: FitResult
    """Of the training that made the model."""
    teacher_accuracy: float
    """On the validation part, as a fraction."""
    accuracies: Mapping[str, float] = field(default_factory=dict)
    """Of the scheme's further models, on the validation part."""
    messages: Sequence[str] = ()
    """What was chosen for the losses, a sentence each."""


def distill(
    student: nn.Module,
    teacher: nn.Module,
    data: Dataset,
    context: FitContext,
    config: DistillConfig,
    *,
    teacher_normalization: Mapping[str, Sequence[float]] | None = None,
    build: BuildModel = cannot_build,
) -> DistillResult:
    """Train the student in place to know what the teacher knows.

    Args:
        student: Learns; ends on the CPU, in eval mode.
        teacher: Is asked in eval mode; its weights and statistics do not change.
        data: Batches of its training part are shown to both.
        context: Seed, device, folder of the checkpoints, who watches.
        config: Who teaches whom, what is learned, and how the training goes.
        teacher_normalization: `mean` and `std` that the teacher was trained with, where they are
            not the data's.
        build: Makes the further models that the scheme's parameters name.

    Raises:
        UnknownName: a layer that does not exist.
        RecipeError: nothing to learn.
        ModelError: models that do not fit each other, the data or the losses.
    """
    scheme = registry.find("scheme", config.scheme_name).load()
    loss_specs = loss_specs_of(config.losses)
    check_task(config, task_of(data).name)
    check_outputs(student, data, name="student")
    check_outputs(teacher, data, name="teacher")
    knows = teacher_preprocessing(data.preprocessing, teacher_normalization)
    weight = config.labels
    _check_mixes(loss_specs, data)
    has_classes = data.validation.is_labelled and has_class_rows(task_of(data).name)
    scheming = SchemeContext(
        data=data,
        fit=context,
        training=config,
        label_weight=weight,
        build=build,
        looked_at=student if has_item_scores(data) else None,
    )
    device = str(device_named(context.device))
    teacher_accuracy = accuracy(
        teacher, data.validation, knows, device=device, name="teacher", task=task_of(data)
    )
    logger.info("the teacher's validation accuracy is %.4f", teacher_accuracy)
    # Of labels for each token only those that count, in one row.
    labels = data.validation.y[data.validation.y != NOT_COUNTED] if has_classes else None
    # Told, not refused: on few validation items a good teacher can look like this.
    weak = None if labels is None else too_weak(teacher_accuracy, labels)
    with _cache_folder(context) as folder:
        factory = _Factory(
            teacher=teacher,
            loss_specs=loss_specs,
            label_weight=weight,
            of_wrong=config.weight_of_wrong,
            teacher_accuracy=teacher_accuracy,
            data=data,
            teacher_preprocessing=knows,
            seed=context.seed,
            cache=folder,
            cache_bytes=config.cache_bytes,
            kept_logits=KeptLogits(top_k=config.cache_top_k, samples=config.cache_samples),
            about_teacher=(weak,) if weak else (),
        )
        model = scheme([student], [teacher], factory, scheming, **config.scheme_parameters)
    # The last training of this model: assistants and generations were trained beside it.
    fits = dict(zip(map(id, scheming.students), scheming.results, strict=True))
    return DistillResult(
        model=model,
        fit=fits[id(model)],
        teacher_accuracy=teacher_accuracy,
        accuracies=scheming.accuracies,
        messages=tuple(factory.messages),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Factory:
    """Makes objectives: what schemes get as `objective`."""

    teacher: nn.Module
    loss_specs: Sequence[LossSpec]
    label_weight: Schedule
    of_wrong: float | None
    teacher_accuracy: float
    data: Dataset
    teacher_preprocessing: Preprocessing
    seed: int
    cache: Path
    cache_bytes: float
    kept_logits: KeptLogits
    about_teacher: tuple[str, ...] = ()
    """Told where a scheme asks it at all."""
    messages: list[str] = field(default_factory=list)

    def __call__(
        self, student: nn.Module, teacher: nn.Module | TeacherProtocol
    ) -> DistillObjective:
        example = example_of(self.data)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)  # the adapters' first weights
            signal = self.signal(teacher)
            loss_specs, sentences = with_layers(
                self.loss_specs, student, next(iter(signal.models), None), example.x
            )
            self._say([*sentences, *self.about_teacher])
            return DistillObjective(
                student,
                signal,
                loss_specs,
                label_weight=self.label_weight,
                example=example,
                facts=facts_of(self.data),
                balanced=[spec.name for spec in loss_specs if spec.is_balanced],
                of_wrong=WeightOfWrong(self.of_wrong, self.teacher_accuracy),
            )

    def _say(self, sentences: Sequence[str]) -> None:
        for sentence in sentences:
            if sentence not in self.messages:
                self.messages.append(sentence)
                progress.info("%s", sentence)

    def signal(self, teacher: nn.Module | TeacherProtocol) -> TeacherProtocol:
        """Return the teacher as a signal that remembers, where that may be."""
        own, other = self.data.preprocessing, self.teacher_preprocessing
        if isinstance(teacher, nn.Module):
            # An assistant, or an earlier generation, was trained on the data as they are.
            is_alike = teacher is not self.teacher or own == other
            teacher = Teacher(teacher, None if is_alike else Renormalizer(own, other))
        remembers = isinstance(teacher, CachedTeacher | Ensemble)
        if remembers or not self.cache_bytes or not teacher.is_repeatable:
            return teacher
        return CachedTeacher(
            teacher, self.cache, budget_bytes=self.cache_bytes, kept=self.kept_logits
        )

    def without_labels(self, data: Dataset) -> _Factory:
        """Return the factory for other data, of which the labels are not to be read."""
        wanting = [loss_spec.name for loss_spec in self.loss_specs if loss_spec.needs_labels]
        if wanting:
            raise RecipeError(
                f"the loss `{wanting[0]}` needs the true class of each item, and this scheme has "
                "soft targets only",
                hint="use `kd` or another loss that needs no labels",
            )
        return replace(self, data=data, label_weight=Constant(value=0.0))


@contextmanager
def _cache_folder(context: FitContext) -> Iterator[Path]:
    if context.cache is not None:
        yield context.cache
        return
    with temporary_folder("teacher") as folder:
        yield folder


def _check_mixes(loss_specs: Sequence[LossSpec], data: Dataset) -> None:
    """Refuse losses that need hard labels where images are mixed."""
    mixes = [name for name in data.augment if name in MIXES]
    wanting = [loss_spec.name for loss_spec in loss_specs if loss_spec.needs_labels]
    if mixes and wanting:
        raise RecipeError(
            f"the loss `{wanting[0]}` needs one true class for each item, and `{mixes[0]}` mixes "
            "items of several",
            hint=f"use `kd` or `dist`, or leave `{mixes[0]}` out of `data.augment`",
        )
