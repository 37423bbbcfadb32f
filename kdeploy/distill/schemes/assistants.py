"""Teacher assistants: a chain from a large teacher over smaller and smaller models to the student.

Mirzadeh et al., AAAI 2020, arXiv:1902.03393.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from kdeploy.distill.contract import AuxiliaryModel, MakeObjective, SchemeContext, scheme
from kdeploy.torch_module.complexity import count_parameters

logger = logging.getLogger(__name__)


@scheme(paper="arXiv:1902.03393", without=("lora",))
def assistants(
    students: Sequence[nn.Module],
    teachers: Sequence[nn.Module],
    objective: MakeObjective,
    context: SchemeContext,
    *,
    models: tuple[AuxiliaryModel, ...] = (),
) -> nn.Module:
    """Return the student, trained by the last assistant.

    Every link learns by the recipe's losses, for as long as the recipe says; `layers` have to
    exist in all models of the chain.

    Args:
        students: One, the end of the chain.
        teachers: One, its beginning.
        objective: Makes what each link learns.
        context: Builds the assistants, trains them and the student.
        models: The assistants, the largest first; one with `weights` starts from them. Without
            any this is `offline`.
    """
    (student,), (teacher,) = students, teachers
    if not models:
        logger.warning("the scheme `assistants` has no `models`: the teacher teaches the student")
    beside = [context.model(entry, place, learns=True) for place, entry in enumerate(models)]
    chain = [teacher, *beside, student]
    _warn_of_growth(chain, [f"models[{place}]" for place in range(len(models))])
    links = list(zip(chain[1:], chain, strict=False))
    # Before any work: do the losses fit every link?
    for learns, knows in links:
        objective(learns, knows)
    for place, (learns, knows) in enumerate(links[:-1]):
        # Not the objectives of the check: a teacher's fingerprint is of its weights, changed since.
        context.train(objective(learns, knows), name=f"assistant-{place + 1}")
        context.record(f"models[{place}]", learns)
    learns, knows = links[-1]
    context.train(objective(learns, knows), name="student" if models else "")
    return student


def _warn_of_growth(chain: Sequence[nn.Module], names: Sequence[str]) -> None:
    """Warn where a model of the chain is not smaller than the one before."""
    shown = ["the teacher", *names, "the student"]
    sizes = [count_parameters(model) for model in chain]
    for place in range(1, len(chain) if names else 0):
        # A teacher that is only a file has no parameters here.
        if sizes[place] >= sizes[place - 1] > 0:
            logger.warning(
                "%s has %d parameters, %s before it %d: a chain of assistants is to shrink",
                shown[place],
                sizes[place],
                shown[place - 1],
                sizes[place - 1],
            )
