"""Entity F1: entities that are found with exactly their tokens and their type, over all texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import DataError
from kdeploy.metrics.contract import metric

OUTSIDE = 0
SKIPPED = -100


@metric(name="tokens.f1", unit="fraction", better="higher", tasks=("tokens",))
def tokens_f1(
    predicted: NDArray[np.integer[Any]],
    expected: NDArray[np.integer[Any]],
    *,
    classes: tuple[str, ...] = (),
) -> float:
    """Return 2 TP / (2 TP + FP + FN) over all entities, as conlleval counts; 1 where none is.

    Args:
        predicted: Class indices (N, tokens).
        expected: The same; tokens of -100 are left out on both sides.
        classes: Their names; with `B-` and `I-` they say where an entity begins.
    """
    if predicted.shape != expected.shape or predicted.ndim != 2 or not len(predicted):
        raise DataError(
            f"cannot compare predictions {predicted.shape} with targets {expected.shape}",
            hint="class indices of the same tokens, (N, tokens)",
        )
    hits = num_found = num_true = 0
    for own, true in zip(predicted, expected, strict=True):
        counts = true != SKIPPED
        found = set(entities(own[counts], classes))
        real = set(entities(true[counts], classes))
        hits, num_found, num_true = (
            hits + len(found & real),
            num_found + len(found),
            num_true + len(real),
        )
    total = num_found + num_true
    return 2 * hits / total if total else 1.0


def entities(
    labels: NDArray[np.integer[Any]], classes: Sequence[str]
) -> Iterator[tuple[int, int, str]]:
    """Yield first token, end and type of each entity of one text.

    `I-x` after something else than `B-x` or `I-x` begins an entity, as conlleval has it.
    """
    tags = [_tag(int(label), classes) for label in labels]
    start, kind = 0, ""
    for place, (begins, own) in enumerate([*tags, (False, "")]):
        if kind and (begins or own != kind):
            yield start, place, kind
            kind = ""
        if own and not kind:
            start, kind = place, own


def _tag(label: int, classes: Sequence[str]) -> tuple[bool, str]:
    """Return whether a label begins an entity wherever it stands, and the entity's type."""
    name = classes[label] if 0 <= label < len(classes) else str(label)
    if name[:2] in ("B-", "I-"):
        return name[0] == "B", name[2:]
    return (False, "") if label <= OUTSIDE else (False, name)
