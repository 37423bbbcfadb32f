"""How well the objects of each image are found, for comparing two models image by image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.boxes import FILLER, WIDTH
from kdeploy.metrics.average_precision import CROWD
from kdeploy.tasks.decoding.detection import overlaps

NEAR = 0.5
"""Intersection over union from which an object counts as found."""


def image_precisions(predicted: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    """Return the average precision of each image that has objects, its classes ranked together.

    A detection is right where it overlaps an object of its class that none before it has found;
    one on a crowd of its class is neither right nor wrong.

    Args:
        predicted: (N, n, 6): x1, y1, x2, y2, class and score; the class -1 where none is.
        expected: (N, m, 5): x1, y1, x2, y2 and class; -1 where none is, -2 less it for a crowd.
    """
    found = [
        _average_precision(own[own[:, WIDTH - 1] != FILLER], true[true[:, WIDTH - 1] != FILLER])
        for own, true in zip(predicted, expected, strict=True)
        if (true[:, WIDTH - 1] > FILLER).any()
    ]
    return np.array(found, np.float64)


def _average_precision(own: NDArray[Any], true: NDArray[Any]) -> float:
    own = own[np.argsort(-own[:, WIDTH], kind="stable")]
    labels, is_crowd = true[:, WIDTH - 1], true[:, WIDTH - 1] < CROWD
    classes = np.where(is_crowd, CROWD - 1 - labels, labels)
    shares = overlaps(own[:, : WIDTH - 1], true[:, : WIDTH - 1])
    shares[own[:, WIDTH - 1, None] != classes] = 0
    is_free, hits = ~is_crowd, []
    for row in shares:
        open_to_it = np.where(is_free, row, 0)
        best = int(open_to_it.argmax())
        if open_to_it[best] >= NEAR:
            is_free[best] = False
            hits.append(True)
        elif not (row[is_crowd] >= NEAR).any():
            hits.append(False)
    right = np.array(hits, bool)
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    # The best that is reached at this recall or a higher one, as COCO has it.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[right].sum() / (~is_crowd).sum())
