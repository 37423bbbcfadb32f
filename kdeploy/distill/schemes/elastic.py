"""Elastic student: one training of a network out of which smaller ones can be cut.

Sandwich rule and in-place distillation: Yu and Huang, ICCV 2019, arXiv:1903.05134; widths and
depths in one training: Cai et al., ICLR 2020, arXiv:1908.09791. In each step the largest learns
from the teacher; the smallest and some of the others, drawn anew, learn from the largest. Pays from
about four sizes on; then the one that is chosen is trained a little further by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from torch import Tensor, nn
from torch.func import functional_call

from kdeploy.distill.contract import AuxiliaryModel, Batch, MakeObjective, SchemeContext, scheme
from kdeploy.distill.divergence import divergence
from kdeploy.errors import ModelError
from kdeploy.torch_module.complexity import count_parameters
from kdeploy.torch_module.nested import beginnings, check_nested, cut_out
from kdeploy.training.compilation import first_output
from kdeploy.training.contract import Objective, ObjectiveHooks
from kdeploy.training.remeasured_norms import remeasure_norms
from kdeploy.training.views import View

if TYPE_CHECKING:
    from pydantic import Field

logger = logging.getLogger(__name__)


@scheme(
    paper="arXiv:1903.05134",
    tasks=("classification",),
    without=("lora", "checkpoint_activations", "fully_shard"),
)
def elastic(
    students: Sequence[nn.Module],
    teachers: Sequence[nn.Module],
    objective: MakeObjective,
    context: SchemeContext,
    *,
    sizes: tuple[AuxiliaryModel, ...] = (),
    drawn: Annotated[int, Field(ge=0)] = 2,
    weight: Annotated[float, Field(gt=0)] = 1.0,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
) -> nn.Module:
    """Return the student, which holds the smaller ones; their accuracies are recorded.

    Args:
        students: One, the largest.
        teachers: One; it teaches the largest.
        objective: Makes what that learns.
        context: Trains all of them, and builds the smaller ones.
        sizes: The smaller networks: the student's own function with smaller arguments.
        drawn: How many of them learn in each step, beside the smallest.
        weight: Of what each of these learns from the largest.
        temperature: Softens both answers; > 0, no unit.
    """
    (student,), (teacher,) = students, teachers
    if not sizes:
        logger.warning("the scheme `elastic` has no `sizes`: this is plain distillation")
        context.train(objective(student, teacher))
        return student
    if context.data.preprocessing.inputs:
        raise ModelError(
            f"items of {context.data.name} have the inputs "
            f"{context.data.preprocessing.told_shape()}, and an elastic student takes one",
            hint="take another scheme, e.g. `offline`",
        )
    smaller = [context.model(entry, place, learns=True) for place, entry in enumerate(sizes)]
    for entry, small in zip(sizes, smaller, strict=True):
        check_nested(small, student, name=f"the size {_told(entry)}")
    context.train(
        ElasticObjective(
            objective(student, teacher),
            smaller,
            drawn=drawn,
            weight=weight,
            temperature=temperature,
            seed=context.fit.seed,
        )
    )
    for entry, small in zip(sizes, smaller, strict=True):
        cut_out(small, student)
        remeasure_norms(small, context.data)
        context.record(f"size {_told(entry)}", small)
    return student


class ElasticObjective(nn.Module):
    """What the largest learns, and beside it some of the smaller ones, from the largest.

    A smaller one's share is weight * T**2 * KL(largest || small), and the largest is a constant
    there: a small network does not make the large one worse.

    Args:
        inner: Of the largest, the student.
        smaller: Networks inside it, of which the shapes count.
        drawn: How many of them a step has beside the smallest.
        weight: Of each of them.
        temperature: T.
        seed: Of the draws.
    """

    def __init__(
        self,
        inner: Objective,
        smaller: Sequence[nn.Module],
        *,
        drawn: int,
        weight: float,
        temperature: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.inner = inner
        self.student = inner.student
        # In a tuple: their own tensors are neither trained nor kept.
        self.smaller = tuple(sorted(smaller, key=count_parameters))
        self.drawn, self.weight, self.temperature, self.seed = drawn, weight, temperature, seed
        self.may_be_zero: frozenset[str] = getattr(inner, "may_be_zero", frozenset())
        counts = [count_parameters(small) for small in self.smaller]
        self.fingerprint = (
            f"{getattr(inner, 'fingerprint', '')} sizes {counts}, {drawn} drawn by {seed}, "
            f"weight {weight}, temperature {temperature}"
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the largest one's components, and that of the smaller ones."""
        answers: list[Tensor] = []
        hook = self.student.register_forward_hook(
            lambda _, __, out: answers.append(first_output(out))
        )
        try:
            components = self.inner(batch)
        finally:
            hook.remove()
        largest = answers[-1].detach().float()
        learned = [
            self.temperature**2
            * divergence(self._answer(small, batch.x), largest, temperature=self.temperature)
            for small in self.chosen(batch.step)
        ]
        return {**components, "sizes": self.weight * sum(learned[1:], learned[0])}

    def chosen(self, step: int) -> list[nn.Module]:
        """Return who learns in a step: the smallest, and others that the step draws.

        All of them where it is only tried: what the kernels do with each is seen beforehand.
        """
        if step < 0:
            return list(self.smaller)
        others = self.smaller[1:]
        rng = np.random.default_rng([self.seed, step])
        count = min(self.drawn, len(others))
        places = rng.choice(len(others), count, replace=False) if count else ()
        return [self.smaller[0], *(others[place] for place in places)]

    def prepare(self, view: View) -> None:
        if isinstance(self.inner, ObjectiveHooks):
            self.inner.prepare(view)

    def compile_parts(self) -> None:
        """Compile nothing: the smaller networks are called with tensors of another."""

    def validated(self, accuracy: float) -> None:
        if isinstance(self.inner, ObjectiveHooks):
            self.inner.validated(accuracy)

    def _answer(self, small: nn.Module, x: Tensor) -> Tensor:
        # Statistics of batch norm are each network's own: what it adds to them is thrown away.
        tensors: dict[str, Tensor] = dict(self.student.named_parameters())
        tensors |= {name: value.clone() for name, value in self.student.named_buffers()}
        small.train(self.training)
        # In the plain layout: other ones were tried on the layers of the largest alone.
        plain = {name: value.contiguous() for name, value in beginnings(small, tensors).items()}
        answer: Tensor = first_output(functional_call(small, plain, (x.contiguous(),)))
        return answer.float()


def _told(entry: AuxiliaryModel) -> str:
    args: dict[str, Any] = dict(entry.get("args") or {})
    return ", ".join(f"{key} {value}" for key, value in args.items()) or str(entry["build"])
