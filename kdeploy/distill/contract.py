"""What a loss is, what a scheme is.

`@loss(paper=, needs="logits")` marks `(student, teacher, labels, *, ...) -> scalar` on logits
(batch, classes). `needs="features"` is called once per pair of the recipe's `layers`, with two
feature maps; `adapt=True` asks for a trained projection of the student's map to the teacher's
shape before the call. `needs="all_features"` is called once with two tuples, all maps of the
recipe's `layers` in their order. Where none are named, `default_layers` chooses. `of_items=True`
says that it compares items with each other, by vectors of any width. `tokens=True` says that
features are (batch, tokens, width); their layers have to be named. `tasks=(...)` names the tasks
that a loss is for, where it is not for all; `draws=True` says that it draws at random.
`former_names=(...)` are names that it had, so that older recipes are read; they stay as written
there, and with them the ids of artefacts. All are float32; the teacher's are constants.
`labels=True` says that the loss cannot do without hard labels, `exact=False` that its minimum is
not where the student's input equals the teacher's.

A loss that trains weights or remembers is a class: an `nn.Module` with
`__init__(self, student, teacher, facts, *, ...)`, the shapes (with the batch first; two tuples of
them for `all_features`) and a `TaskFacts`, and `forward(student, teacher, batch) -> scalar`. Its
parameters are trained with the student's, its buffers are part of the checkpoint. It raises
`ModelError` when it is built for shapes that it cannot compare.

`@scheme(paper=)` marks `(students, teachers, objective, context, *, ...) -> model`: `objective`
makes what one student learns from one teacher, a model or any `TeacherProtocol`; `context.train`
trains it. A chain of assistants calls both once a link; an ensemble is one signal of many. What a
scheme needs beside the recipe's two models are parameters of the type `AuxiliaryModel`, which
`context.model` makes. It returns one of the models that it trained. `tasks=(...)` names the tasks
that it is for, where it is not for all. `student_layers="NAME"` and
`further_items="NAME"` say which parameter names layers of the student, or a file of items for the
training part, so that both are looked at before any work; `reads_labels=False` that it learns from
the teacher alone, so that data need no labels. `without=("lora",)` names options of the training
that have no sense in it, as of one that trains networks from their beginning or several at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
from torch import Tensor, nn

from kdeploy.data.contract import Dataset
from kdeploy.distill.schedules import Schedule
from kdeploy.distill.teacher_protocol import TeacherProtocol
from kdeploy.errors import ModelError
from kdeploy.registration import Decorated, register
from kdeploy.tasks.contract import Task, classification, task_of
from kdeploy.training.config import TrainingConfig
from kdeploy.training.device import device_named
from kdeploy.training.fit import (
    Batch,
    FitContext,
    FitResult,
    Objective,
    accuracy,
    check_outputs,
    fit,
)

__all__ = [
    "AuxiliaryModel",
    "Batch",
    "MakeObjective",
    "SchemeContext",
    "TaskFacts",
    "loss",
    "scheme",
]

loss: Callable[..., Callable[[Decorated], Decorated]] = partial(register, "loss")
scheme: Callable[..., Callable[[Decorated], Decorated]] = partial(register, "scheme")
AuxiliaryModel: TypeAlias = Mapping[str, Any]
"""`{build: REF, args: {...}, weights: FILE or None}`, checked; of a scheme's parameters."""
BuildModel: TypeAlias = Callable[[AuxiliaryModel, int], nn.Module]
"""Makes a further model, its first weights under the seed unless it has its own."""
logger = logging.getLogger(__name__)


def cannot_build(reference: AuxiliaryModel, seed: int) -> nn.Module:
    """Stand in where nobody said how further models are built."""
    del seed
    raise ModelError(
        f"nothing here can build `{reference['build']}`, a further model of the scheme",
        hint="use a recipe or `kdeploy distill`, or give `distill(..., build=...)` a function",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """What a loss with weights or a memory may know of the task when it is built."""

    num_classes: int
    num_items: int
    """Of the training part; `Batch.rows` counts them from 0."""
    task: Task = field(default_factory=classification)
    """What outputs and targets mean."""
    teacher_layers: tuple[str, ...] = ()
    """Of a loss on features the teacher's layers, in the order of the features."""
    run_on: Callable[[Batch, Mapping[str, Tensor]], Any] | None = None
    """Runs the teacher with these outputs in place of its layers' own, and returns its answer."""


class MakeObjective(Protocol):
    """Makes the recipe's objective, its losses and their weights, for any two models."""

    def __call__(self, student: nn.Module, teacher: nn.Module | TeacherProtocol) -> Objective:
        """Check that the two fit each other and the losses, and return what is trained."""
        ...

    def signal(self, teacher: nn.Module) -> TeacherProtocol:
        """Return a teacher that remembers what it said, where that may be."""
        ...

    def without_labels(self, data: Dataset) -> MakeObjective:
        """Return what makes the same objectives for other data, with soft targets only.

        Raises:
            RecipeError: a loss needs hard labels.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeContext:
    """What a scheme may use: the data, the training's parameters, and training itself."""

    data: Dataset
    fit: FitContext
    training: TrainingConfig
    label_weight: Schedule
    """For schemes whose objective is their own; that of `MakeObjective` holds it already."""
    build: BuildModel = cannot_build
    looked_at: nn.Module | None = None
    """Whose trainings are looked at on the way: the student's, not those of others beside it."""
    results: list[FitResult] = field(default_factory=list)
    """Of all trainings so far, in their order."""
    students: list[nn.Module] = field(default_factory=list)
    """Whom each of them trained first of all."""
    accuracies: dict[str, float] = field(default_factory=dict)
    """Of further models on the validation part, by name, for the record."""

    def train(self, objective: Objective, *, name: str = "") -> FitResult:
        """Train as the recipe says; with a name, beside other trainings of the same scheme."""
        is_looked_at = objective.student is self.looked_at
        context = self.fit if is_looked_at else replace(self.fit, look=None)
        if name:
            work = context.work / name if context.work else None
            context = replace(context, work=work, name=f"{context.name}: {name}")
        result = fit(objective, self.data, context, self.training)
        self.results.append(result)
        self.students.append(objective.student)
        return result

    def model(self, reference: AuxiliaryModel, place: int, *, learns: bool = False) -> nn.Module:
        """Return the further model at a place of its list.

        Raises:
            ModelError: it cannot be built, does not fit the data, or cannot learn and is to.
        """
        model = self.build(reference, self.seed_of(place))
        if learns and not any(p.requires_grad for p in model.parameters()):
            raise ModelError(
                f"`{reference['build']}` is to learn and has nothing that can be trained",
                hint="name a torch model; a file of ONNX can only teach",
            )
        check_outputs(model, self.data, name=f"model `{reference['build']}`")
        return model

    def seed_of(self, place: int) -> int:
        """Return a seed for the first weights of a further model: nobody else starts alike."""
        return int(np.random.SeedSequence([self.fit.seed, place]).generate_state(1)[0])

    def record(self, name: str, model: nn.Module) -> float:
        """Measure a further model on the validation part, and keep the number under its name."""
        device = str(device_named(self.fit.device))
        data = self.data
        part, known = data.validation, data.preprocessing
        value = accuracy(model, part, known, device=device, name=name, task=task_of(data))
        logger.info("the validation accuracy of %s is %.4f", name, value)
        self.accuracies[name] = value
        return value
