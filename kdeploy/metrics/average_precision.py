"""Average precision of detections, by pycocotools: COCO's own numbers, without what it prints."""

from __future__ import annotations

import hashlib
import io
from contextlib import redirect_stdout
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import DataError, MissingDependency

CROWD = -1
"""Classes below it, -2 less the class, stand for crowds: matching them is no mistake."""
PRECISIONS = {"map": 0, "map50": 1}
"""Where COCO's summary has each: over overlaps from 0.5 to 0.95, and at 0.5."""
_KEPT: dict[str, NDArray[Any]] = {}


def average_precision(predicted: NDArray[Any], expected: NDArray[Any], *, which: str) -> float:
    """Return the mean over classes that occur of the area under precision over recall.

    At 101 recalls, of at most 100 detections an image.

    Args:
        predicted: (N, n, 6): x1, y1, x2, y2, class and score; the class -1 where none is.
        expected: (N, m, 5): x1, y1, x2, y2 and class; -1 where none is, below for a crowd.
        which: "map" over overlaps from 0.5 to 0.95, or "map50" at 0.5.

    Raises:
        DataError: they are not of the same images, or there is no object to find.
        MissingDependency: pycocotools cannot be imported.
    """
    if predicted.ndim != 3 or expected.ndim != 3 or len(predicted) != len(expected):
        raise DataError(
            f"cannot compare detections {predicted.shape} with boxes {expected.shape}",
            hint="predict every image of the same part",
        )
    if not (expected[..., 4] >= 0).any():
        raise DataError(
            "there is no object to find in any image", hint="judge on images with objects"
        )
    if not (predicted[..., 4] >= 0).any():
        return 0.0
    return _summary(_digest(predicted, expected))[PRECISIONS[which]]


def _digest(predicted: NDArray[Any], expected: NDArray[Any]) -> str:
    """Keep both under a digest: one evaluation gives all numbers, which are asked for in turn."""
    arrays = [np.ascontiguousarray(a) for a in (predicted, expected)]
    digest = hashlib.sha256(b"".join(a.tobytes() + repr(a.shape).encode() for a in arrays))
    _KEPT.clear()
    _KEPT["predicted"], _KEPT["expected"] = arrays
    return digest.hexdigest()


@lru_cache(maxsize=4)
def _summary(digest: str) -> tuple[float, ...]:
    del digest
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingDependency.named(
            "pycocotools", needed_for="average precision", pip="'kdeploy[detection]'"
        ) from error
    predicted, expected = _KEPT["predicted"], _KEPT["expected"]
    truth = COCO()
    classes = sorted({_class(c) for c in np.unique(expected[..., 4]) if c != CROWD})
    truth.dataset = {
        "images": [{"id": number} for number in range(len(expected))],
        "categories": [{"id": c} for c in classes],
        "annotations": [
            {
                **_entry(image, box, _class(box[4])),
                "id": number,
                "iscrowd": int(box[4] < CROWD),
            }
            for number, (image, box) in enumerate(_real(expected, below=True), start=1)
        ],
    }
    found = [
        {**_entry(image, box, int(box[4])), "score": float(box[5])}
        for image, box in _real(predicted)
    ]
    with redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return tuple(float(value) for value in evaluation.stats[:2])


def _class(label: float) -> int:
    return int(label) if label > CROWD else int(-2 - label)


def _entry(image: int, box: NDArray[Any], label: int) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in box[:4])
    width, height = x2 - x1, y2 - y1
    return {
        "image_id": image,
        "category_id": label,
        "bbox": [x1, y1, width, height],
        "area": width * height,
    }


def _real(boxes: NDArray[Any], *, below: bool = False) -> list[tuple[int, NDArray[Any]]]:
    """Return the boxes that are some, each with its image; with `below`, crowds too."""
    labels = boxes[..., 4]
    places = np.argwhere((labels >= 0) | (below & (labels < CROWD)))
    return [(int(image), boxes[image, place]) for image, place in places]
