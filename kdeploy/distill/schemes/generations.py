"""Born-again networks: each generation of the same architecture learns from the one before.

Furlanello et al., ICML 2018, arXiv:1805.04770.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from torch import Tensor, nn

from kdeploy.distill.contract import MakeObjective, SchemeContext, scheme
from kdeploy.distill.reinitialize import fresh_copy
from kdeploy.distill.teachers import log_of_mean

if TYPE_CHECKING:
    from pydantic import Field

logger = logging.getLogger(__name__)


@scheme(paper="arXiv:1805.04770", without=("lora",))
def generations(
    students: Sequence[nn.Module],
    teachers: Sequence[nn.Module],
    objective: MakeObjective,
    context: SchemeContext,
    *,
    count: Annotated[int, Field(ge=1)] = 2,
    ensemble_of_generations: bool = False,
) -> nn.Module:
    """Return the generation that is best on the validation part, of equals the later.

    The first one learns from the recipe's teacher, so `layers` of losses have to exist in the
    teacher as well as, for the later ones, in the student.

    Args:
        students: One, the first generation.
        teachers: One, who teaches the first generation.
        objective: Makes what a generation learns from the one before.
        context: Trains each.
        count: Generations; each starts from weights of its own.
        ensemble_of_generations: Also measure the mean of what all generations say.
    """
    (first,), (teacher,) = students, teachers
    born = [first, *(fresh_copy(first, context.seed_of(place)) for place in range(1, count))]
    taught_by = [teacher, *born]  # each generation's teacher is the one before
    # Before any work: do the losses fit a teacher that is built as the student?
    for own, other in zip(born, taught_by, strict=False):
        objective(own, other)
    scores = []
    for place, (own, other) in enumerate(zip(born, taught_by, strict=False), start=1):
        context.train(objective(own, other), name=f"generation-{place}")
        scores.append(context.record(f"generation {place}", own))
    if ensemble_of_generations:
        context.record("the generations together", _Together(born))
    best = 0
    for place in range(count):
        # Not `>=`: without a validation part nothing is less, and the last one is returned.
        best = best if scores[place] < scores[best] else place
    logger.info("generation %d of %d is returned", best + 1, count)
    return born[best]


class _Together(nn.Module):
    """The logarithm of the mean of the generations' probabilities."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        count = len(self.models)
        return log_of_mean([model(*inputs, **named) for model in self.models], [1 / count] * count)
