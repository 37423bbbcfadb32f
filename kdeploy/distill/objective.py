"""What is trained in a distillation: the student with its adapters, under labels and lessons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.distill.feature_maps import adapter, check_ranks, pooled_alike
from kdeploy.distill.lessons import Lesson
from kdeploy.distill.taps import tapped
from kdeploy.distill.teacher import Teacher
from kdeploy.errors import ModelError, RecipeError
from kdeploy.fitting.checkpoint import fingerprint_of

LABELS = "labels"


class DistillObjective(nn.Module):
    """The student and its adapters in one trainable module; the teacher stands outside of it.

    Args:
        student: Learns; its own `state_dict` has no key of an adapter.
        teacher: Is only asked.
        lessons: What is learned from the teacher.
        label_weight: Weight of the cross-entropy with the true labels; 0 leaves it out.
        example: Two preprocessed items, to see the shapes of the features.

    Raises:
        UnknownName: a layer that does not exist.
        ModelError: features that cannot be compared.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        lessons: Sequence[Lesson],
        *,
        label_weight: float,
        example: Tensor,
    ) -> None:
        super().__init__()
        _check_sense(student, teacher, lessons, label_weight)
        self.student = student
        self.teacher = teacher
        self.lessons = tuple(lessons)
        self.label_weight = label_weight
        self.student_paths = _unique(s for lesson in lessons for s in lesson.layers)
        self.teacher_paths = _unique(t for lesson in lessons for t in lesson.layers.values())
        self.adapters = nn.ModuleDict()
        self._fit_together(example)
        facts = {"label_weight": label_weight, "lessons": [lesson.facts() for lesson in lessons]}
        self.fingerprint = fingerprint_of(facts, teacher.model)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the weighted components: `labels`, then one of each lesson."""
        asked, features_asked = self.teacher(x, self.teacher_paths)
        with tapped(self.student, self.student_paths, role="student") as features:
            logits = self.student(x)
        components: dict[str, Tensor] = {}
        if self.label_weight:
            entropy = functional.cross_entropy(logits.float(), labels)
            components[LABELS] = self.label_weight * entropy
        for index, lesson in enumerate(self.lessons):
            if lesson.layers:
                value = self._on_features(index, features, features_asked, labels)
            else:
                value = _exact(lesson, logits, asked, labels)
            components[lesson.name] = lesson.weight * value
        return components

    def _on_features(
        self, index: int, student: dict[str, Tensor], teacher: dict[str, Tensor], labels: Tensor
    ) -> Tensor:
        """Return the sum of a lesson over its pairs of layers."""
        lesson = self.lessons[index]
        values = []
        for pair, (own, other) in enumerate(lesson.layers.items()):
            learns, knows = student[own], teacher[other]
            if lesson.adapt:
                learns, knows = pooled_alike(learns, knows)
                learns = self.adapters[f"{index}_{pair}"](learns)
            values.append(_exact(lesson, learns, knows, labels))
        return torch.stack(values).sum()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> DistillObjective:
        # `to(device)` and `to(memory_format)` end here: the teacher goes where the student goes.
        self.teacher.model._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def _fit_together(self, example: Tensor) -> None:
        """Make the adapters, and run all once so that what does not fit shows before training."""
        was_training = self.student.training
        self.student.eval()
        try:
            _, knows = self.teacher(example, self.teacher_paths)
            with tapped(self.student, self.student_paths, role="student") as learns:
                self.student(example)
            for index, lesson in enumerate(self.lessons):
                self._make_adapters(index, lesson, learns, knows)
            self.adapters.eval()
            self._try(example)
        finally:
            self.student.train(was_training)
            self.adapters.train()

    def _make_adapters(
        self, index: int, lesson: Lesson, learns: dict[str, Tensor], knows: dict[str, Tensor]
    ) -> None:
        for pair, (own, other) in enumerate(lesson.layers.items()):
            for path, features, role in ((own, learns, "student"), (other, knows, "teacher")):
                if path not in features:
                    raise ModelError(
                        f"the layer `{path}` of the {role} does not run in a forward pass",
                        hint="name a layer that the model's forward calls",
                    )
            shapes = learns[own].shape, knows[other].shape
            check_ranks(*shapes, where=f"loss `{lesson.name}`, layers `{own}`: `{other}`")
            if lesson.adapt:
                self.adapters[f"{index}_{pair}"] = adapter(*shapes)

    def _try(self, example: Tensor) -> None:
        try:
            self(example, torch.zeros(len(example), dtype=torch.int64))
        except (RuntimeError, ValueError, IndexError) as error:
            names = ", ".join(f"`{lesson.name}`" for lesson in self.lessons)
            raise ModelError(
                f"the losses {names} cannot be computed for these two models: {error}",
                hint="check that their outputs and `layers` have comparable shapes",
            ) from error


def _exact(lesson: Lesson, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the loss in float32, whatever the networks computed in."""
    with torch.autocast(student.device.type, enabled=False):
        return lesson.function(student.float(), teacher.float(), labels, **lesson.parameters)


def _check_sense(
    student: nn.Module, teacher: Teacher, lessons: Sequence[Lesson], label_weight: float
) -> None:
    if student is teacher.model:
        raise ModelError(
            "the student and the teacher are one and the same object",
            hint="give the teacher as a copy: `copy.deepcopy(model)`",
        )
    if not lessons and not label_weight:
        raise RecipeError(
            "nothing to learn: no losses, and `label_weight` is 0",
            hint="add `losses: [{kd: {}}]` or set `label_weight: 1.0`",
        )


def _unique(paths: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(paths))
