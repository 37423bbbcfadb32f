"""What is trained in a distillation: the student with its adapters, under labels and losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.distill.contract import TaskFacts
from kdeploy.distill.correctness import WeightOfWrong, weighed, weights_of
from kdeploy.distill.feature_hooks import features_of
from kdeploy.distill.gradient_balance import LABELS, GradientBalance
from kdeploy.distill.loss_bank import LossBank
from kdeploy.distill.loss_specs import LossSpec
from kdeploy.distill.plateau_decay import PlateauDecay
from kdeploy.distill.schedules import Schedule
from kdeploy.distill.teacher_protocol import TeacherProtocol
from kdeploy.errors import ModelError, RecipeError
from kdeploy.tasks.contract import is_of_classes
from kdeploy.torch_module.model_outputs import first_of, named
from kdeploy.torch_module.named_inputs import call
from kdeploy.training.checkpoint import fingerprint_of
from kdeploy.training.compilation import CompiledCall
from kdeploy.training.contract import Batch
from kdeploy.training.views import View


class DistillObjective(nn.Module):
    """The student and its adapters in one trainable module; the teacher stands outside of it.

    Args:
        student: Learns; its own `state_dict` has no key of an adapter.
        teacher: Is only asked.
        loss_specs: What is learned from the teacher.
        label_weight: Weight of the task's loss with the true labels; always 0 leaves it out.
        example: Two preprocessed items, to see the shapes of the features.
        facts: What losses with a memory may know of the task.
        balanced: Losses whose gradients are kept in a band around that of the labels.
        of_wrong: The weight of items that the teacher gets wrong, in losses on logits; None: 1.

    Raises:
        UnknownName: a layer that does not exist.
        ModelError: features that cannot be compared.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: TeacherProtocol,
        loss_specs: Sequence[LossSpec],
        *,
        label_weight: Schedule,
        example: Batch,
        facts: TaskFacts,
        balanced: Sequence[str] = (),
        of_wrong: WeightOfWrong | None = None,
    ) -> None:
        super().__init__()
        # A schedule that is 0 at first still needs its component: history has it from the first
        # epoch.
        has_labels = any(label_weight.values())
        _check_sense(student, teacher, loss_specs, has_labels=has_labels)
        self.student = student
        self.task = facts.task
        self.teacher = teacher
        self.weights = {loss_spec.name: loss_spec.weight for loss_spec in loss_specs}
        if has_labels:
            self.weights[LABELS] = label_weight
        self.student_paths = _unique(s for loss_spec in loss_specs for s in loss_spec.layers)
        self.teacher_paths = _unique(
            t for loss_spec in loss_specs for t in loss_spec.layers.values()
        )
        self.fading = PlateauDecay(self.weights)
        self.loss_bank = self._fit_together(
            loss_specs, example, replace(facts, run_on=teacher.run_on)
        )
        self.balance = GradientBalance(balanced) if balanced and has_labels else None
        self.of_wrong = of_wrong or WeightOfWrong(1.0)
        at_times = {name for name, weight in self.weights.items() if 0 in weight.values()}
        self.may_be_zero = frozenset(at_times | ({LABELS} if self.loss_bank.writes else set()))
        self.fingerprint = fingerprint_of(
            {
                "label_weight": repr(label_weight),
                "loss_specs": [loss_spec.facts() for loss_spec in loss_specs],
                "teacher": teacher.fingerprint,
                "balanced": list(self.balance.names) if self.balance else [],
                "of_wrong": [self.of_wrong.fixed, self.of_wrong.teacher_accuracy],
            },
            nn.Module(),  # the first weights are already known to the training itself
        )
        self._call = CompiledCall(student)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted components: `labels`, then one of each loss."""
        weights = {name: self._weight(name, batch.progress) for name in self.weights}
        shown = self.loss_bank.proposed(self.student, batch)
        is_due = self.balance is not None and self.balance.is_due(batch.step)
        # Compiled, a network forgets what a second backward pass through it would need.
        is_live = bool(self.student_paths) or is_due
        with features_of(self.student, self.student_paths, role="student") as features:
            logits = named(self._call(shown.x, is_hooked=is_live))
        nothing = first_of(logits).new_zeros(()).float()
        components: dict[str, Tensor] = {}
        # What a student wrote itself is no truth to learn by heart.
        is_true = shown is batch
        if LABELS in weights:
            value = self.task.label_loss(logits, batch.labels) if is_true else nothing
            components[LABELS] = weights.pop(LABELS) * value
        # Behind the labels: the weights that are left are the teacher's, and where all are 0 it is
        # not asked.
        asked = self.teacher(shown, self.teacher_paths) if any(weights.values()) else None
        taught, rows = logits, None
        knows_wrong = is_of_classes(self.task.name) and isinstance(logits, Tensor)
        of_wrong = self.of_wrong.at(batch.progress) if knows_wrong else 1.0
        if asked is not None and is_true and of_wrong != 1:
            rows = weights_of(*self.task.rows(asked.logits, batch.labels), of_wrong=of_wrong)
            taught = weighed(logits, rows)
        for name, weight in weights.items():
            if asked is None or not weight:
                components[name] = nothing
                continue
            value = self.loss_bank.value_of(name, (taught, features), asked, shown)
            components[name] = weight * value
        if self.balance is not None:
            self._balance(self.balance, components, rows, is_due=is_due)
        if not any(value.requires_grad for value in components.values()):
            # All weights are 0 now: the step has a gradient of zeros, also for other processes.
            components[next(iter(components))] += (0 * first_of(logits)).sum()
        return components

    def _balance(
        self,
        balance: GradientBalance,
        components: dict[str, Tensor],
        rows: Tensor | None,
        *,
        is_due: bool,
    ) -> None:
        """Scale the losses that are balanced, by what their gradients were found to be.

        Where few rows count, their gradient is small, and is to stay so.
        """
        if is_due and components[LABELS].requires_grad:
            balance.look(components, [p for p in self.student.parameters() if p.requires_grad])
        for name, factor in balance.factors().items():
            is_of_rows = rows is not None and self.loss_bank.loss_specs[name].needs == "logits"
            share = rows.mean() if rows is not None and is_of_rows else 1.0
            components[name] = components[name] * factor * share

    def prepare(self, view: View) -> None:
        """Let the teacher answer on a view of all items, where it remembers."""
        self.teacher.prepare(view, self.teacher_paths)

    def compile_parts(self) -> None:
        """Compile student and teacher, each by itself; not where inner layers are watched."""
        if not self.student_paths:
            self._call.compile()
        self.teacher.compile()

    def validated(self, accuracy: float) -> None:
        """Let adaptive weights fade when validation no longer gains."""
        self.fading.validated(accuracy)
        self.of_wrong.validated(accuracy)

    def _weight(self, name: str, progress: float) -> float:
        return self.weights[name].at(progress) * self.fading.factor(name)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> DistillObjective:
        # `to(device)` and `to(memory_format)` end here: the teacher goes where the student goes.
        self.teacher.apply(fn, recurse=recurse)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def _fit_together(
        self, loss_specs: Sequence[LossSpec], example: Batch, facts: TaskFacts
    ) -> LossBank:
        """Run all once, so that what does not fit shows before training."""
        was_training = self.student.training
        self.student.eval()
        try:
            asked = self.teacher(example, self.teacher_paths)
            with features_of(self.student, self.student_paths, role="student") as features:
                logits = named(call(self.student, example.x))
            loss_bank = LossBank(loss_specs, (logits, features), asked, facts, example.labels)
            loss_bank.dry_run((logits, features), asked, example)
        finally:
            self.student.train(was_training)
        return loss_bank


def _check_sense(
    student: nn.Module,
    teacher: TeacherProtocol,
    loss_specs: Sequence[LossSpec],
    *,
    has_labels: bool,
) -> None:
    if any(student is model for model in teacher.models):
        raise ModelError(
            "the student and the teacher are one and the same object",
            hint="give the teacher as a copy: `copy.deepcopy(model)`",
        )
    if not loss_specs and not has_labels:
        raise RecipeError(
            "nothing to learn: no losses, and `label_weight` is 0",
            hint="add `losses: [{kd: {}}]` or set `label_weight: 1.0`",
        )


def _unique(paths: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(paths))
