"""Several teachers: the student learns from the mean of what they say, or from one at a time.

The mean of teachers: You et al., KDD 2017, doi:10.1145/3097983.3098135. A random one a step:
Blakeney et al. 2022, arXiv:2211.00683, who find it as good at the cost of one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from torch import nn

from kdeploy.distill.contract import AuxiliaryModel, MakeObjective, SchemeContext, scheme
from kdeploy.distill.teachers import Ensemble
from kdeploy.errors import RecipeError

if TYPE_CHECKING:
    from pydantic import Field

# Of the way from guessing to always being right; what is below it teaches noise.
LEAST_SKILL = 0.25
logger = logging.getLogger(__name__)


@scheme(
    paper="doi:10.1145/3097983.3098135",
    tasks=("classification", "tokens", "language_modeling"),
)
def ensemble(
    students: Sequence[nn.Module],
    given: Sequence[nn.Module],
    objective: MakeObjective,
    context: SchemeContext,
    *,
    teachers: tuple[AuxiliaryModel, ...] = (),
    how: Literal["mean", "weights", "random"] = "mean",
    weights: tuple[Annotated[float, Field(gt=0)], ...] = (),
) -> nn.Module:
    """Return the student, trained.

    Args:
        students: One.
        given: The recipe's teacher.
        objective: Makes what the student learns.
        context: Builds the further teachers and trains the student.
        teachers: Beside the recipe's own, e.g. `[{build: build.py:net, weights: w.safetensors}]`;
            they take inputs as the data normalise them.
        how: `mean` of the probabilities, by `weights`, or one teacher at `random` for each batch.
            Losses on features see those of the recipe's teacher; with `random` there are none.
        weights: One a teacher, the recipe's first; they are divided by their sum.
    """
    (student,) = students
    further = [context.model(reference, place) for place, reference in enumerate(teachers)]
    for place, teacher in enumerate(further):
        _warn_of_guessing(f"teachers[{place}]", teacher, context)
    members = [objective.signal(teacher) for teacher in (*given, *further)]
    shares = _shares(weights, len(members), how=how)
    if weights and how != "weights":
        logger.warning("the ensemble's `weights` have no effect with `how: %s`", how)
    signal = Ensemble(members, shares, how="random" if how == "random" else "mean")
    context.train(objective(student, signal))
    return student


def _warn_of_guessing(name: str, teacher: nn.Module, context: SchemeContext) -> None:
    """Record how good a teacher is, and warn of one that was probably never trained."""
    accuracy = context.record(name, teacher)
    chance = 1 / context.data.num_classes  # of classes of equal number
    if (accuracy - chance) / (1 - chance) < LEAST_SKILL:
        logger.warning(
            "%s of the ensemble is right on %.1f %% of the validation part, hardly more than a "
            "guess; hint: give it `weights`, or name an artefact",
            name,
            100 * accuracy,
        )


def _shares(weights: Sequence[float], count: int, *, how: str) -> list[float]:
    """Return weights that add up to 1: those given, or equal ones."""
    if how != "weights":
        return [1 / count] * count
    if len(weights) != count:
        raise RecipeError(
            f"the ensemble has {count} teachers and {len(weights)} `weights`",
            hint="give one a teacher, the recipe's own first, e.g. `weights: [2, 1]`",
        )
    return [weight / sum(weights) for weight in weights]
