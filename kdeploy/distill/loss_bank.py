"""The lessons with what they train and remember: adapters, losses with weights, memories."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from kdeploy.data.contract import NOT_COUNTED
from kdeploy.distill.contract import TaskFacts
from kdeploy.distill.feature_maps import adapter, check_ranks, pooled_alike
from kdeploy.distill.loss_specs import TEMPERATURE, Lesson
from kdeploy.distill.teacher_protocol import Knowledge
from kdeploy.distill.tokens import real_rows
from kdeploy.errors import ModelError, RecipeError
from kdeploy.training.contract import Batch
from kdeploy.user_code import described

Features: TypeAlias = Mapping[str, Tensor]
Answer: TypeAlias = tuple[Tensor, Features]
"""Logits, and the outputs of the layers that are watched."""


class Classroom(nn.Module):
    """Computes each lesson's value for a batch.

    Args:
        lessons: What is learned.
        student: What the student answered on the example.
        teacher: What the teacher answered on it.
        facts: What losses with a memory may know of the task.

    Raises:
        ModelError: features that do not exist or cannot be compared.
    """

    def __init__(
        self, lessons: Sequence[Lesson], student: Answer, teacher: Knowledge, facts: TaskFacts
    ) -> None:
        super().__init__()
        self.lessons = {lesson.name: lesson for lesson in lessons}
        self.adapters = nn.ModuleDict()
        self.modules_of_losses = nn.ModuleDict()
        for lesson in lessons:
            pairs = _pairs(lesson, student[1], teacher.features)
            shapes = [(own.shape, other.shape) for own, other in pairs]
            if lesson.is_module:
                self._add_modules(lesson, shapes, (student[0].shape, teacher.logits.shape), facts)
            elif lesson.needs == "features":
                self._add_adapters(lesson, shapes)
        self._check_authors()

    @property
    def writes(self) -> bool:
        """Whether the student is at times shown what it wrote itself."""
        return any(getattr(m, "on_policy", 0.0) for m in self.modules_of_losses.values())

    def lesson(self, name: str, student: Answer, teacher: Knowledge, batch: Batch) -> Tensor:
        """Return the value of a lesson, in float32 whatever the networks computed in."""
        lesson = self.lessons[name]
        with torch.autocast(batch.x.device.type, enabled=False):
            if lesson.needs == "logits":
                return self._on_logits(lesson, student[0], teacher.logits, batch)
            pairs = _pairs(lesson, student[1], teacher.features)
            floats = [(own.float(), other.float()) for own, other in pairs]
            if lesson.needs == "all_features":
                own, other = (tuple(side) for side in zip(*floats, strict=True))
                return self._value(lesson, 0, (own, other), batch)
            values = [self._on_pair(lesson, i, pair, batch) for i, pair in enumerate(floats)]
            return torch.stack(values).sum()

    def proposed(self, student: nn.Module, batch: Batch) -> Batch:
        """Return the batch itself, or one that the student wrote for a loss that asks for it."""
        for module in self.modules_of_losses.values():
            propose: Callable[..., Batch] | None = getattr(module, "propose", None)
            if propose is not None:
                return propose(student, batch)
        return batch

    def rehearse(self, student: Answer, teacher: Knowledge, example: Batch) -> None:
        """Compute all lessons once; neither memory nor statistics are changed by it.

        Raises:
            ModelError: a loss cannot be computed for these two models.
        """
        before = copy.deepcopy(self.state_dict())
        self.eval()
        for name in self.lessons:
            try:
                self.lesson(name, student, teacher, example)
            except (RuntimeError, ValueError, IndexError) as error:
                raise ModelError(
                    f"the loss `{name}` cannot be computed for these two models:"
                    f" {described(error)}",
                    hint="check that their outputs and `layers` have comparable shapes",
                ) from error
        self.load_state_dict(before)
        self.train()

    def _check_authors(self) -> None:
        wanting = [name for name, lesson in self.lessons.items() if lesson.needs_labels]
        if self.writes and wanting:
            raise RecipeError(
                f"the loss `{wanting[0]}` needs true labels, and `on_policy` shows batches that "
                "the student wrote itself",
                hint=f"leave `{wanting[0]}` or `on_policy` out",
            )

    def _on_logits(self, lesson: Lesson, own: Tensor, other: Tensor, batch: Batch) -> Tensor:
        labels = batch.labels
        if own.ndim == 3 and not lesson.is_module:
            own, other = real_rows(own, labels), real_rows(other, labels)
            labels = labels[labels != NOT_COUNTED]
        return self._value(lesson, 0, (own.float(), other.float()), batch._replace(labels=labels))

    def _on_pair(
        self, lesson: Lesson, pair: int, features: tuple[Tensor, Tensor], batch: Batch
    ) -> Tensor:
        own, other = features
        if lesson.adapt:
            own, other = pooled_alike(own, other)
            own = self.adapters[_key(lesson, pair)](own)
        return self._value(lesson, pair, (own, other), batch)

    def _value(self, lesson: Lesson, pair: int, sides: tuple[Any, Any], batch: Batch) -> Tensor:
        temperature = lesson.temperature.at(batch.progress) if lesson.temperature else None
        if lesson.is_module:
            module = self.modules_of_losses[_key(lesson, pair)]
            if temperature is not None:
                module.temperature = temperature  # type: ignore[assignment]
            value: Tensor = module(*sides, batch)
            return value
        parameters = dict(lesson.parameters)
        if temperature is not None:
            parameters[TEMPERATURE] = temperature
        plain: Tensor = lesson.function(*sides, batch.labels, **parameters)
        return plain

    def _add_modules(
        self,
        lesson: Lesson,
        shapes: Sequence[tuple[torch.Size, torch.Size]],
        logits: tuple[torch.Size, torch.Size],
        facts: TaskFacts,
    ) -> None:
        if lesson.needs == "logits":
            sides: list[Any] = [logits]
        elif lesson.needs == "all_features":
            sides = [tuple(zip(*shapes, strict=True))]
        else:
            sides = list(shapes)
        for pair, (own, other) in enumerate(sides):
            module = lesson.function(own, other, facts, **lesson.parameters)
            self.modules_of_losses[_key(lesson, pair)] = module

    def _add_adapters(
        self, lesson: Lesson, shapes: Sequence[tuple[torch.Size, torch.Size]]
    ) -> None:
        for pair, ((own, other), sizes) in enumerate(
            zip(lesson.layers.items(), shapes, strict=True)
        ):
            if not lesson.of_items:  # which compare vectors of any widths
                check_ranks(*sizes, where=f"loss `{lesson.name}`, layers `{own}`: `{other}`")
            if lesson.adapt:
                self.adapters[_key(lesson, pair)] = adapter(*sizes)


def _pairs(lesson: Lesson, student: Features, teacher: Features) -> list[tuple[Tensor, Tensor]]:
    """Return the outputs of a lesson's layers, the student's beside the teacher's."""
    for paths, features, role in (
        (lesson.layers, student, "student"),
        (lesson.layers.values(), teacher, "teacher"),
    ):
        for path in paths:
            if path not in features:
                raise ModelError(
                    f"the layer `{path}` of the {role} does not run in a forward pass",
                    hint="name a layer that the model's forward calls",
                )
    return [(student[own], teacher[other]) for own, other in lesson.layers.items()]


def _key(lesson: Lesson, pair: int) -> str:
    return f"{lesson.name}_{pair}"
