"""What a metric is: a function of predictions, decorated with its name, unit and direction.

`(predicted, expected, *, ...) -> float`, both in the form of predictions of the `tasks` that the
metric judges: by default class indices (N,), where labels are of tokens, N counts tokens.
`needs="log_likelihoods"` marks `(log_likelihoods, *, ...) -> float`, the natural logarithm of the
probability that each token's class got, (N,); it is asked for only where labels are of tokens.
`needs="divergences"` marks `(divergences, *, ...) -> float`, the KL divergence of each token's
distribution from the teacher's, (N,) in nats, where both answers were at hand. The names are those
of `kdeploy.measurement.METRICS`; those that begin with `agreement.` compare with another model's
predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from kdeploy.classes import not_finite
from kdeploy.errors import DataError
from kdeploy.registration import register

CLASSES = ("classification", "tokens", "language_modeling")
Measured = TypeVar("Measured", bound=Callable[..., float])


def metric(
    *,
    name: str,
    unit: str,
    better: Literal["lower", "higher"],
    needs: Literal["predictions", "log_likelihoods", "divergences"] = "predictions",
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


IGNORED = 255
"""The class of a pixel that counts nowhere."""


def check_maps(predicted: NDArray[Any], expected: NDArray[Any]) -> None:
    """Check that both are class maps of the same images, and that some pixel counts.

    Raises:
        DataError: shapes differ, or nothing counts.
    """
    if predicted.shape != expected.shape or predicted.ndim != 3 or not len(predicted):
        raise DataError(
            f"cannot compare maps {predicted.shape} with masks {expected.shape}",
            hint="class indices (N, height, width) of the same images",
        )
    if (expected == IGNORED).all():
        raise DataError(
            f"every pixel of {len(expected)} masks is {IGNORED}, so nothing counts",
            hint="label some pixels",
        )


def confusion(
    predicted: NDArray[np.integer[Any]], expected: NDArray[np.integer[Any]]
) -> NDArray[np.int64]:
    """Return how often pixels of each class (rows) got each class (columns)."""
    counts = expected != IGNORED
    own, true = predicted[counts].astype(np.int64), expected[counts].astype(np.int64)
    size = int(max(own.max(), true.max())) + 1
    return np.bincount(true * size + own, minlength=size**2).reshape(size, size)


def check_sets(predicted: NDArray[Any], expected: NDArray[Any]) -> None:
    """Check that both are numbers for the labels of the same items.

    Raises:
        DataError: shapes differ, there is nothing to compare, or a probability is no number.
    """
    if predicted.shape != expected.shape or predicted.ndim != 2 or not predicted.size:
        raise DataError(
            f"cannot compare probabilities {predicted.shape} with labels {expected.shape}",
            hint="(N, labels) of the same items",
        )
    if not np.isfinite(predicted).all():
        raise DataError(
            "probabilities hold NaN or infinity",
            hint="find out why the model answers no numbers there",
        )


def set_counts(
    predicted: NDArray[Any], expected: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each label the hits, and how often either side gives it: TP, 2 TP + FP + FN."""
    known, own = expected >= 0, predicted >= 0.5
    true = expected > 0
    hits = (own & true & known).sum(axis=0)
    return hits, (own & known).sum(axis=0) + (true & known).sum(axis=0)


def check_points(predicted: NDArray[Any], expected: NDArray[Any]) -> None:
    """Check that both are points (N, points, 3) of the same images, some of them to be found.

    Raises:
        DataError: shapes differ, no point counts, or a coordinate is no number.
    """
    if predicted.shape != expected.shape or predicted.ndim != 3 or predicted.shape[-1] != 3:
        raise DataError(
            f"cannot compare points {predicted.shape} with {expected.shape}",
            hint="(N, points, 3) of the same images",
        )
    if not (expected[..., 2] > 0).any() or not np.isfinite(predicted).all():
        raise DataError(
            f"of {len(expected)} images no point counts, or one that was found is no number",
            hint="points that are there have a visibility of 1 or 2",
        )


NEAR = 0.05
"""Distance of a point that counts as found, in parts of the image's longer side."""


def near_points(predicted: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which points (N, points) lie within `NEAR` of the other's; x, y in such parts."""
    gap = np.linalg.norm(predicted[..., :2] - expected[..., :2], axis=-1)
    near: NDArray[np.bool_] = gap <= NEAR
    return near


MOST_PAIRS = 100_000
BLOCK = 1024


def check_embeddings(vectors: NDArray[Any]) -> None:
    """Check that there are two or more finite vectors.

    Raises:
        DataError: with what was found.
    """
    if vectors.ndim != 2 or len(vectors) < 2 or not np.isfinite(vectors).all():
        raise DataError(
            f"embeddings of shape {vectors.shape} cannot be compared with each other",
            hint="two or more vectors (N, width) of finite numbers",
        )


def nearest(vectors: NDArray[Any]) -> NDArray[np.int64]:
    """Return for each unit vector the place of the most similar other one, the first of equals."""
    found = []
    for start in range(0, len(vectors), BLOCK):
        similar = vectors[start : start + BLOCK] @ vectors.T
        rows = np.arange(len(similar))
        similar[rows, start + rows] = -np.inf
        found.append(similar.argmax(axis=1))
    return np.concatenate(found)


def neighbours_in_group(vectors: NDArray[Any], groups: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether the nearest other vector is of the same group, of those that have one there.

    Args:
        vectors: Unit vectors (N, width), two or more.
        groups: The group of each, (N,).
    """
    _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    right: NDArray[np.bool_] = (groups[nearest(vectors)] == groups)[sizes[place] > 1]
    return right


def some_pairs(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of all pairs of different items, or of as many drawn ones as are judged."""
    if count * (count - 1) // 2 <= MOST_PAIRS:
        one, other = np.triu_indices(count, k=1)
        return one, other
    generator = np.random.default_rng(0)
    one = generator.integers(count, size=MOST_PAIRS)
    return one, (one + 1 + generator.integers(count - 1, size=MOST_PAIRS)) % count


def check_texts(predicted: Sequence[str], expected: Sequence[str]) -> None:
    """Check that both are texts of the same items, and that there are any.

    Raises:
        DataError: their numbers differ, or there is none.
    """
    if len(predicted) != len(expected) or not len(predicted):
        raise DataError(
            f"cannot compare {len(predicted)} texts with {len(expected)}",
            hint="read every item of the same, non-empty part",
        )
