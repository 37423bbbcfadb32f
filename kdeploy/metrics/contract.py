"""What a metric is: a function of predictions, decorated with its name, unit and direction.

`(predicted, expected, *, ...) -> float`, both in the form of predictions of the `tasks` that the
metric judges: by default class indices (N,), where labels are of tokens, N counts tokens.
`needs="log_likelihoods"` marks `(log_likelihoods, *, ...) -> float`, the natural logarithm of the
probability that each token's class got, (N,); it is asked for only where labels are of tokens. The
names are those of `kdeploy.measurement.METRICS`; those that begin with `agreement.` compare with
another model's predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from kdeploy.classes import not_finite
from kdeploy.errors import DataError
from kdeploy.registration import register

CLASSES = ("classification",)
Measured = TypeVar("Measured", bound=Callable[..., float])


def metric(
    *,
    name: str,
    unit: str,
    better: Literal["lower", "higher"],
    needs: Literal["predictions", "log_likelihoods"] = "predictions",
    tasks: tuple[str, ...] = CLASSES,
) -> Callable[[Measured], Measured]:
    """Return the decorator of a metric; its facts are those of `kdeploy.measurement.METRICS`."""
    facts: dict[str, Any] = {"name": name, "unit": unit, "better": better}
    if needs != "predictions":  # as the registry reads it: what was not written is no fact
        facts["needs"] = needs
    if tasks != CLASSES:
        facts["tasks"] = tasks

    def mark(function: Measured) -> Measured:
        return register("metric", **facts)(function)

    return mark


def check_classes(predicted: NDArray[Any], expected: NDArray[Any]) -> None:
    """Check that both are class indices of the same items, and that there are items.

    Raises:
        DataError: shapes differ, there is nothing to compare, they are not integers, or an item has
            no class.
    """
    for name, classes in (("predicted", predicted), ("expected", expected)):
        if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer):
            raise DataError(
                f"{name} classes are {classes.dtype} of shape {classes.shape}",
                hint="class indices (N,): `kdeploy.classes.classes_of(outputs)`",
            )
    if len(predicted) != len(expected) or len(predicted) == 0:
        raise DataError(
            f"cannot compare {len(predicted)} predicted with {len(expected)} expected classes",
            hint="predict every item of the same, non-empty part",
        )
    for name, classes in (("predicted", predicted), ("expected", expected)):
        if (reason := not_finite(classes)) is not None:
            raise DataError(
                f"{name}: {reason}",
                hint="find out why the model answers no numbers there; it is not a class",
            )


def check_vectors(predicted: NDArray[Any], expected: NDArray[Any]) -> None:
    """Check that both hold finite numbers of the same items, in one shape, and that there are any.

    Raises:
        DataError: shapes differ, there is nothing to compare, or something is no number.
    """
    if predicted.shape != expected.shape or len(predicted) == 0:
        raise DataError(
            f"cannot compare predictions {predicted.shape} with targets {expected.shape}",
            hint="predict every item of the same, non-empty part",
        )
    for name, values in (("predicted", predicted), ("expected", expected)):
        if not np.isfinite(values).all():
            raise DataError(
                f"{name} values hold NaN or infinity",
                hint="find out why the model answers no numbers there",
            )
