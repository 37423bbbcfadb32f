"""The losses with what they train and remember: adapters, losses with weights, memories."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from kdeploy.data.contract import NOT_COUNTED
from kdeploy.distill.contract import TaskFacts
from kdeploy.distill.correctness import MAPS
from kdeploy.distill.feature_maps import adapter, check_ranks, pooled_alike, resized
from kdeploy.distill.loss_specs import TEMPERATURE, LossSpec
from kdeploy.distill.teacher_protocol import TeacherOutput
from kdeploy.distill.tokens import real_rows
from kdeploy.errors import ModelError, RecipeError
from kdeploy.tasks import usual
from kdeploy.tasks.contract import is_classification, judged_as
from kdeploy.training.contract import Batch
from kdeploy.untrusted.user_code import described

Features: TypeAlias = Mapping[str, Tensor]
Answer: TypeAlias = tuple[Any, Features]
"""What was answered, one tensor or several by name, and outputs of the layers that are watched."""


class LossBank(nn.Module):
    """Computes each loss_spec's value for a batch.

    Args:
        loss_specs: What is learned.
        student: What the student answered on the example.
        teacher: What the teacher answered on it.
        facts: What losses with a memory may know of the task.
        labels: Of the example.

    Raises:
        ModelError: features that do not exist or cannot be compared.
    """

    def __init__(
        self,
        loss_specs: Sequence[LossSpec],
        student: Answer,
        teacher: TeacherOutput,
        facts: TaskFacts,
        labels: Tensor,
    ) -> None:
        super().__init__()
        self.task = facts.task
        self.loss_specs = {loss_spec.name: loss_spec for loss_spec in loss_specs}
        self.adapters = nn.ModuleDict()
        self.modules_of_losses = nn.ModuleDict()
        for loss_spec in loss_specs:
            pairs = _pairs(loss_spec, student[1], teacher.features)
            shapes = [(own.shape, other.shape) for own, other in pairs]
            if loss_spec.is_module:
                sides = self._shapes(loss_spec, student[0], teacher.logits, labels)
                self._add_modules(loss_spec, shapes, sides, facts)
            elif loss_spec.needs == "features":
                self._add_adapters(loss_spec, shapes)
        self._check_on_policy()

    def _shapes(
        self, loss_spec: LossSpec, student: Any, teacher: Any, labels: Tensor
    ) -> tuple[torch.Size, torch.Size]:
        if loss_spec.needs == "logits" and not self._is_of_task(loss_spec):
            own, other, _ = self._rows(student, teacher, labels)
        else:
            own, other = (self.task.distillable(answer) for answer in (student, teacher))
        return own.shape, other.shape

    def _rows(self, student: Any, teacher: Any, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return both as a loss of the task that this one is like gets them, and the targets."""
        own, targets = self.task.rows(student, labels)
        other, _ = self.task.rows(teacher, labels)
        if own.ndim == MAPS:  # with the classes last: without masks each has its own size
            other = resized(other.movedim(-1, 1), own.shape[1:3]).movedim(1, -1)
        return own, other, targets

    @property
    def writes(self) -> bool:
        """Whether the student is at times shown what it wrote itself."""
        return any(getattr(m, "on_policy", 0.0) for m in self.modules_of_losses.values())

    def value_of(self, name: str, student: Answer, teacher: TeacherOutput, batch: Batch) -> Tensor:
        """Return the value of a loss, in float32 whatever the networks computed in."""
        loss_spec = self.loss_specs[name]
        # Temperature and logarithms of small probabilities need more digits than half precision
        # has.
        with torch.autocast(batch.x.device.type, enabled=False):
            if loss_spec.needs == "logits":
                if self._is_of_task(loss_spec):
                    own, labels = usual.as_distillable(self.task, student[0], batch.labels)
                    other = self.task.distillable(teacher.logits)
                else:
                    own, other, labels = self._rows(student[0], teacher.logits, batch.labels)
                return self._on_logits(loss_spec, own, other, batch._replace(labels=labels))
            pairs = _pairs(loss_spec, student[1], teacher.features)
            floats = [(own.float(), other.float()) for own, other in pairs]
            if loss_spec.needs == "all_features":
                sides = tuple(zip(*floats, strict=True))
                return self._value(loss_spec, 0, (sides[0], sides[1]), batch)
            values = [self._on_pair(loss_spec, i, pair, batch) for i, pair in enumerate(floats)]
            return torch.stack(values).sum()

    def proposed(self, student: nn.Module, batch: Batch) -> Batch:
        """Return the batch itself, or one that the student wrote for a loss that asks for it."""
        for module in self.modules_of_losses.values():
            propose: Callable[..., Batch] | None = getattr(module, "propose", None)
            if propose is not None:
                return propose(student, batch)
        return batch

    def dry_run(self, student: Answer, teacher: TeacherOutput, example: Batch) -> None:
        """Compute all losses once; neither memory nor statistics are changed by it.

        Raises:
            ModelError: a loss cannot be computed for these two models.
        """
        # Whatever a loss remembers, in eval mode too, is not to be of the example.
        before = copy.deepcopy(self.state_dict())
        self.eval()
        for name in self.loss_specs:
            try:
                self.value_of(name, student, teacher, example)
            except (RuntimeError, ValueError, IndexError) as error:
                raise ModelError(
                    f"the loss `{name}` cannot be computed for these two models:"
                    f" {described(error)}",
                    hint="check that their outputs and `layers` have comparable shapes",
                ) from error
        self.load_state_dict(before)
        self.train()

    def _check_on_policy(self) -> None:
        wanting = [name for name, loss_spec in self.loss_specs.items() if loss_spec.needs_labels]
        if self.writes and wanting:
            raise RecipeError(
                f"the loss `{wanting[0]}` needs true labels, and `on_policy` shows batches that "
                "the student wrote itself",
                hint=f"leave `{wanting[0]}` or `on_policy` out",
            )

    def _on_logits(self, loss_spec: LossSpec, own: Tensor, other: Tensor, batch: Batch) -> Tensor:
        labels = batch.labels
        is_of_rows = not self._is_of_task(loss_spec) or is_classification(self.task.name)
        if own.ndim > 2 and is_of_rows and not loss_spec.is_module:
            own, other = real_rows(own, labels), real_rows(other, labels)
            # After the rows: `real_rows` asks the labels that still say which tokens count.
            labels = labels[labels != NOT_COUNTED]
        return self._value(
            loss_spec, 0, (own.float(), other.float()), batch._replace(labels=labels)
        )

    def _is_of_task(self, loss_spec: LossSpec) -> bool:
        """Return whether a loss was made for the task itself, or its base, not for one like it."""
        return judged_as(self.task) in loss_spec.tasks

    def _on_pair(
        self, loss_spec: LossSpec, pair: int, features: tuple[Tensor, Tensor], batch: Batch
    ) -> Tensor:
        own, other = features
        if loss_spec.adapt:
            own, other = pooled_alike(own, other)
            own = self.adapters[_key(loss_spec, pair)](own)
        return self._value(loss_spec, pair, (own, other), batch)

    def _value(
        self, loss_spec: LossSpec, pair: int, sides: tuple[Any, Any], batch: Batch
    ) -> Tensor:
        temperature = loss_spec.temperature.at(batch.progress) if loss_spec.temperature else None
        if loss_spec.is_module:
            module = self.modules_of_losses[_key(loss_spec, pair)]
            if temperature is not None:
                module.temperature = temperature  # type: ignore[assignment]
            value: Tensor = module(*sides, batch)
            return value
        parameters = dict(loss_spec.parameters)
        if temperature is not None:
            parameters[TEMPERATURE] = temperature
        plain: Tensor = loss_spec.function(*sides, batch.labels, **parameters)
        return plain

    def _add_modules(
        self,
        loss_spec: LossSpec,
        shapes: Sequence[tuple[torch.Size, torch.Size]],
        logits: tuple[torch.Size, torch.Size],
        facts: TaskFacts,
    ) -> None:
        if loss_spec.needs == "logits":
            sides: list[Any] = [logits]
        elif loss_spec.needs == "all_features":
            sides = [tuple(zip(*shapes, strict=True))]
        else:
            sides = list(shapes)
        facts = replace(facts, teacher_layers=tuple(loss_spec.layers.values()))
        for pair, (own, other) in enumerate(sides):
            module = loss_spec.function(own, other, facts, **loss_spec.parameters)
            self.modules_of_losses[_key(loss_spec, pair)] = module

    def _add_adapters(
        self, loss_spec: LossSpec, shapes: Sequence[tuple[torch.Size, torch.Size]]
    ) -> None:
        for pair, ((own, other), sizes) in enumerate(
            zip(loss_spec.layers.items(), shapes, strict=True)
        ):
            if not loss_spec.of_items:  # which compare vectors of any widths
                check_ranks(*sizes, where=f"loss `{loss_spec.name}`, layers `{own}`: `{other}`")
            if loss_spec.adapt:
                self.adapters[_key(loss_spec, pair)] = adapter(*sizes)


def _pairs(
    loss_spec: LossSpec, student: Features, teacher: Features
) -> list[tuple[Tensor, Tensor]]:
    """Return the outputs of a loss's layers, the student's beside the teacher's."""
    for paths, features, role in (
        (loss_spec.layers, student, "student"),
        (loss_spec.layers.values(), teacher, "teacher"),
    ):
        for path in paths:
            if path not in features:
                raise ModelError(
                    f"the layer `{path}` of the {role} does not run in a forward pass",
                    hint="name a layer that the model's forward calls",
                )
    return [(student[own], teacher[other]) for own, other in loss_spec.layers.items()]


def _key(loss_spec: LossSpec, pair: int) -> str:
    return f"{loss_spec.name}_{pair}"
