"""What a loss is, what a scheme is.

`@loss(paper=, needs="logits")` marks `(student, teacher, labels, *, ...) -> scalar` on logits
(batch, classes). `needs="features"` is called once per pair of the recipe's `layers`, with two
feature maps; `adapt=True` asks for a trained projection of the student's map to the teacher's
shape before the call. `needs="all_features"` is called once with two tuples, all maps of the
recipe's `layers` in their order. `tokens=True` says that features are (batch, tokens, width). All
are float32; the teacher's are constants. `labels=True` says
that the loss cannot do without hard labels, `exact=False` that its minimum is not where the
student's input equals the teacher's.

A loss that trains weights or remembers is a class: an `nn.Module` with
`__init__(self, student, teacher, facts, *, ...)`, the shapes (with the batch first; two tuples of
them for `all_features`) and a `TaskFacts`, and `forward(student, teacher, batch) -> scalar`. Its
parameters are trained with the student's, its buffers are part of the checkpoint. It raises
`ModelError` when it is built for shapes that it cannot compare.

`@scheme(paper=)` marks `(students, teachers, objective, context, *, ...) -> model`: `objective`
makes what one student learns from one teacher, a model or any `TeacherSignal`; `context.train`
trains it. A chain of assistants calls both once a link; an ensemble is one signal of many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from torch import nn

from kdeploy.data.contract import Dataset
from kdeploy.distill.schedules import Schedule
from kdeploy.distill.signal import TeacherSignal
from kdeploy.registry import Decorated, register
from kdeploy.training import Batch, FitContext, FitResult, Objective, fit

__all__ = ["Batch", "MakeObjective", "SchemeContext", "TaskFacts", "loss", "scheme"]

loss: Callable[..., Callable[[Decorated], Decorated]] = partial(register, "loss")
scheme: Callable[..., Callable[[Decorated], Decorated]] = partial(register, "scheme")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """What a loss with weights or a memory may know of the task when it is built."""

    num_classes: int
    num_items: int
    """Of the training part; `Batch.rows` counts them from 0."""


class MakeObjective(Protocol):
    """Makes the recipe's objective, its losses and their weights, for any two models."""

    def __call__(self, student: nn.Module, teacher: nn.Module | TeacherSignal) -> Objective:
        """Check that the two fit each other and the losses, and return what is trained."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeContext:
    """What a scheme may use: the data, the training's parameters, and training itself."""

    data: Dataset
    fit: FitContext
    training: Mapping[str, Any]
    label_weight: Schedule
    """For schemes whose objective is their own; that of `MakeObjective` holds it already."""
    results: list[FitResult] = field(default_factory=list)
    """Of all trainings so far, in their order."""

    def train(self, objective: Objective, *, name: str = "") -> FitResult:
        """Train as the recipe says; with a name, beside other trainings of the same scheme."""
        context = self.fit
        if name:
            work = context.work / name if context.work else None
            context = replace(context, work=work, name=f"{context.name}: {name}")
        result = fit(objective, self.data, context, **self.training)
        self.results.append(result)
        return result
