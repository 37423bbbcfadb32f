"""Early exits: inner layers get heads of their own, which learn from labels and the last layer.

Deep supervision: Lee et al., AISTATS 2015, arXiv:1409.5185; exits that teach themselves: Zhang et
al., ICCV 2019, arXiv:1905.08094. Their loss on features is left out: it gains next to nothing.
The exits stay in the model; `kdeploy.distill.exits.Exits` asks them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.distill.contract import Batch, MakeObjective, SchemeContext, scheme
from kdeploy.distill.divergence import divergence
from kdeploy.distill.exits import Exits, attach_exits
from kdeploy.distill.feature_hooks import features_of
from kdeploy.errors import ModelError
from kdeploy.torch_module.named_inputs import tensors_of
from kdeploy.training.compilation import first_output
from kdeploy.training.contract import Objective, ObjectiveHooks
from kdeploy.training.views import View

if TYPE_CHECKING:
    from pydantic import Field

logger = logging.getLogger(__name__)


@scheme(
    paper="arXiv:1905.08094",
    student_layers="exits",
    tasks=("classification",),
    without=("lora", "fully_shard"),
)
def self_exits(
    students: Sequence[nn.Module],
    teachers: Sequence[nn.Module],
    objective: MakeObjective,
    context: SchemeContext,
    *,
    exits: tuple[str, ...] = (),
    exit_label_weight: Annotated[float, Field(ge=0)] = 0.7,
    deepest_weight: Annotated[float, Field(ge=0)] = 0.3,
    temperature: Annotated[float, Field(gt=0)] = 3.0,
) -> nn.Module:
    """Return the student with its exits; its own output learns by the recipe's losses.

    Args:
        students: One.
        teachers: One; it teaches the student's own output.
        objective: Makes what that output learns.
        context: Trains both.
        exits: Paths of the student's layers that get an exit, in the order of the forward pass.
        exit_label_weight: Weight of the labels' cross-entropy at each exit.
        deepest_weight: Weight of the divergence from the student's own output; 0 leaves it out.
        temperature: Softens that divergence; > 0, no unit.
    """
    (student,), (teacher,) = students, teachers
    if not exits:
        logger.warning("the scheme `self_exits` has no `exits`: this is plain distillation")
        context.train(objective(student, teacher))
        return student
    data = context.data
    if data.preprocessing.inputs:
        raise ModelError(
            f"items of {data.name} have the inputs {data.preprocessing.told_shape()}, and a model "
            "with exits takes one",
            hint="take another scheme, e.g. `offline`",
        )
    if data.train.y.ndim != 1:
        raise ModelError(
            f"an exit answers once for an item, and the labels of {data.name} are of its tokens",
            hint="take another scheme, e.g. `offline`",
        )
    example = tensors_of(data.preprocessing.apply(data.train.x[:2]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed_of(0))  # the heads' first weights
        attach_exits(student, exits, example, num_classes=data.num_classes)
    weights = {"labels": exit_label_weight, "deepest": deepest_weight}
    context.train(ExitObjective(objective(student, teacher), weights, temperature=temperature))
    for place, path in enumerate(exits):
        context.record(f"exit {path}", _One(student, place))
    return student


class ExitObjective(nn.Module):
    """What the student's own output learns, and beside it each exit.

    An exit's share is weight * CE(labels) + weight * T**2 * KL(deepest || exit), and the deepest
    is a constant there: an exit does not make the last layer worse.

    Args:
        inner: Of the student's own output; the student has exits.
        weights: Of the `labels` and of the `deepest` output.
        temperature: T.
    """

    def __init__(self, inner: Objective, weights: dict[str, float], *, temperature: float) -> None:
        super().__init__()
        self.inner = inner
        self.student = inner.student
        self.weights, self.temperature = weights, temperature
        self.may_be_zero: frozenset[str] = getattr(inner, "may_be_zero", frozenset())
        inside = getattr(inner, "fingerprint", "")
        paths = list(Exits(self.student).heads)
        self.fingerprint = f"{inside} exits {paths} {weights}, temperature {temperature}"

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the student's components, then those of each exit."""
        exits = Exits(self.student)
        deepest: list[Tensor] = []
        hook = self.student.register_forward_hook(
            lambda _, __, out: deepest.append(first_output(out))
        )
        try:
            with features_of(self.student, list(exits.heads), role="student") as features:
                components = self.inner(batch)
        finally:
            hook.remove()
        for path, logits in zip(exits.heads, exits.answers(features), strict=True):
            for name, value in self._learned(logits.float(), deepest[-1], batch).items():
                if self.weights[name]:
                    components[f"exit {path}: {name}"] = self.weights[name] * value
        return components

    def prepare(self, view: View) -> None:
        if isinstance(self.inner, ObjectiveHooks):
            self.inner.prepare(view)

    def compile_parts(self) -> None:
        """Compile nothing: the student's inner layers are watched."""

    def validated(self, accuracy: float) -> None:
        if isinstance(self.inner, ObjectiveHooks):
            self.inner.validated(accuracy)

    def _learned(self, logits: Tensor, deepest: Tensor, batch: Batch) -> dict[str, Tensor]:
        apart = divergence(logits, deepest, temperature=self.temperature)
        labels = functional.cross_entropy(logits, batch.labels)
        return {"labels": labels, "deepest": self.temperature**2 * apart}


class _One(nn.Module):
    """One of the exits as a model, to be measured."""

    def __init__(self, student: nn.Module, place: int) -> None:
        super().__init__()
        self.exits, self.place = Exits(student), place

    def forward(self, x: Tensor) -> Tensor:
        return self.exits.exits(x)[self.place]
