"""One training for all sizes of a student: candidates are cut out of the largest one.

Widths and depths of one function are nested in its largest network, so one training (scheme
`elastic`) makes all candidates that differ in them; each takes seconds then. What is shared ranks
them, and only finalists are trained by themselves, from what they were inside the largest.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdeploy.errors import RecipeError
from kdeploy.pipeline.building import fresh_model
from kdeploy.pipeline.models import data_of, made_model, make_student, reference_facts
from kdeploy.pipeline.session import Made, Session
from kdeploy.recipe.resolve import Recipe
from kdeploy.recipe.sections import spelled_out
from kdeploy.search.space import Choice, Dimension, Range, Space
from kdeploy.store.artifact import Artifact
from kdeploy.store.model_io import load_model
from kdeploy.store.references import source_sha256
from kdeploy.torch_module.nested import cut_out
from kdeploy.training.remeasured_norms import remeasure_norms

SIZE = "student.args."
"""What keys of the space begin with that the largest network has the most of."""
AFTER = ("compress", "export")
"""Sections that may differ too: they come after the training that is shared."""
MOST_SIZES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The recipe of the training that all candidates share, as somebody might have written it."""

    document: Mapping[str, Any]
    sizes: int


def shared_training(space: Space, recipe: Recipe) -> Shared:
    """Return the training of the largest student, out of which all others can be cut.

    Raises:
        RecipeError: there is no student, its scheme is another, or the space is not of sizes.
    """
    if recipe.student is None or recipe.distill is None:
        raise RecipeError(
            "search.elastic: candidates are cut out of a student, and the recipe has none",
            hint="add `student` and `distill`, or leave `elastic` out",
        )
    if recipe.distill.scheme_name != "offline":
        raise RecipeError(
            f"search.elastic trains by the scheme `elastic`, and the recipe says "
            f"`{recipe.distill.scheme_name}`",
            hint="leave one of them out",
        )
    sizes = {d.key.removeprefix(SIZE): _numbers(d) for d in space.dimensions if _is_size(d)}
    if not sizes:
        raise RecipeError(
            "search.elastic: the space names no size of the student",
            hint="e.g. `student.args.width: {choice: [4, 8, 16]}`",
        )
    nested = [dict(zip(sizes, found, strict=True)) for found in itertools.product(*sizes.values())]
    if len(nested) > MOST_SIZES:
        raise RecipeError(
            f"search.elastic: the space has {len(nested)} sizes, and {MOST_SIZES} are the most "
            "that one training makes",
            hint="name fewer of them by `choice`, or leave `elastic` out",
        )
    largest = {name: max(values) for name, values in sizes.items()}
    args = recipe.student.args
    document = space.document({**space.start(), **{SIZE + k: v for k, v in largest.items()}})
    smaller = [
        {"build": recipe.student.build, "args": {**args, **size}}
        for size in nested
        if size != largest
    ]
    scheme = {"elastic": {"sizes": smaller}}
    document = {**document, "distill": {**document["distill"], "scheme": scheme}, "compress": []}
    return Shared(document=document, sizes=len(nested))


def cut_student(session: Session, recipe: Recipe, shared: Recipe, teacher: Artifact) -> Artifact:
    """Return the candidate's student as it is inside the largest one, which is trained once.

    Args:
        session: Of the search's store.
        recipe: The candidate's.
        shared: That of the training.
        teacher: Of both.
    """
    student, config = recipe.student, shared.distill
    assert student is not None, "checked by `shared_training`"
    assert shared.student is not None, "it is the same one, larger"
    assert config is not None, "it is trained"
    whole = make_student(session, shared.student, teacher, config, shared.teacher, label="elastic")

    def make(work: Path) -> Made:
        del work  # nothing to go on from
        small = fresh_model(student, session.seed)
        cut_out(small, load_model(whole))
        remeasure_norms(small, data_of(session))
        return made_model(session, small, student)

    return session.step(
        kind="torch",
        stage="distill",
        technique="elastic",
        label="student",
        make=make,
        parents=[whole],
        parameters={"student": reference_facts(student)},
        source=source_sha256(student),
    )


def beginning_with(document: Mapping[str, Any], weights: str | None) -> dict[str, Any]:
    """Return a recipe whose student begins with a file's weights; None: as it is."""
    if weights is None:
        return dict(document)
    student = spelled_out(document["student"], "student")
    return {**document, "student": {**student, "weights": weights}}


def _is_size(dimension: Dimension) -> bool:
    if dimension.key.startswith(SIZE):
        return True
    if dimension.key.partition(".")[0] in AFTER:
        return False
    raise RecipeError(
        f"search.elastic: `{dimension.key}` would need a training for each of its values",
        hint="leave it out of the space, or leave `elastic` out",
    )


def _numbers(dimension: Dimension) -> list[int]:
    """Return the sizes of a dimension."""
    if isinstance(dimension, Choice) and dimension.options:
        values = list(dimension.options)
    elif isinstance(dimension, Range) and dimension.is_integer and not dimension.log:
        step = int(dimension.step or 1)
        values = list(range(int(dimension.low), int(dimension.high) + 1, step))
    else:
        values = []
    if not values or not all(type(value) is int for value in values):
        raise RecipeError(
            f"search.elastic: `{dimension.key}` is no size: {getattr(dimension, 'options', '')}",
            hint="sizes are whole numbers: `{choice: [4, 8, 16]}`",
        )
    return sorted(values)
