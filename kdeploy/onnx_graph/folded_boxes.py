"""A detector's boxes as operators of an ONNX file, as `tasks/decoding/detection.py` reads them.

Of maps of distances and logits the candidates of all strides: boxes (batch, K, 4) x1 y1 x2 y2 in
pixels, and probabilities (batch, K, classes). With suppression the 100 best of them that no better
one of their class covers, best first; rows of zeros fill up. No box is cut at the border: who reads
them does that, because what is cut covers more of another one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.steps import Steps
from kdeploy.tasks.decoding.detection import (
    EDGES,
    MOST_CANDIDATES,
    MOST_DETECTIONS,
    cell_centres,
)


def boxes_of(
    steps: Steps, outputs: Mapping[str, ir.Value], task: Mapping[str, Any], *, suppresses: bool
) -> dict[str, ir.Value]:
    """Return `boxes` and `scores`, see the head of this file.

    Raises:
        ModelError: the file does not say how large its maps are, or suppression has no size.
    """
    size, told = task["found"]["size"], task["parameters"]["scores"]
    levels = [name.partition(".")[2] for name in outputs if name.partition(".")[0] == "boxes"]
    boxes, scores, count = [], [], 0
    for level in levels:
        box, score = (outputs[kind + "." * bool(level) + level] for kind in ("boxes", "scores"))
        is_decoded = len(_shape(box)) == 3
        count += _shape(box)[1] if is_decoded else math.prod(_shape(box)[2:])
        boxes.append(box if is_decoded else _edges(steps, box, size))
        if not is_decoded:
            score = steps.add("Transpose", _flat(steps, score), perm=[0, 2, 1])
        if told == "logits" or (told == "auto" and not is_decoded):
            score = steps.add("Sigmoid", score)
        scores.append(score)
    box, score = (steps.add("Concat", *parts, axis=1) for parts in (boxes, scores))
    if suppresses:
        box, score = _suppressed(steps, box, score, count, task)
    return {"boxes": box, "scores": score}


def _shape(value: ir.Value) -> tuple[Any, ...]:
    shape = () if value.shape is None else tuple(value.shape)
    if len(shape) not in (3, 4) or not all(isinstance(size, int) for size in shape[1:]):
        raise ModelError(
            f"the output `{value.name}` has shape {list(shape)}: boxes fold where all sizes but "
            "the batch are fixed",
            hint="export it without `dynamic`",
        )
    return shape


def _flat(steps: Steps, maps: ir.Value) -> ir.Value:
    """Return maps (batch, channels, height, width) with their cells in one axis."""
    return steps.add("Reshape", maps, np.array([0, 0, -1]))


def _edges(steps: Steps, maps: ir.Value, size: Any) -> ir.Value:
    """Return boxes (batch, cells, 4) of distances from the centres of cells, or of their bins."""
    _, channels, height, width = _shape(maps)
    points, stride = cell_centres(height, width, size)
    distances = _flat(steps, maps)
    if channels != EDGES:
        bins = channels // EDGES
        shape = np.array([0, EDGES, bins, height * width])
        weights = steps.add("Softmax", steps.add("Reshape", maps, shape), axis=2)
        places = np.arange(bins, dtype=np.float32).reshape(1, 1, -1, 1) * np.float32(stride)
        weighted = steps.add("Mul", weights, places)
        distances = steps.add("ReduceSum", weighted, np.array([2]), keepdims=0)
    signs = np.array([-1, -1, 1, 1], np.float32)
    away = steps.add("Mul", steps.add("Transpose", distances, perm=[0, 2, 1]), signs)
    return steps.add("Add", away, np.tile(points, 2).astype(np.float32)[None])


def _suppressed(
    steps: Steps, boxes: ir.Value, scores: ir.Value, count: int, task: Mapping[str, Any]
) -> tuple[ir.Value, ir.Value]:
    """Return the best boxes and their scores; of a box the score of its best class alone.

    `count` is how many candidates there are.
    """
    told = task["parameters"]
    count = min(count, MOST_CANDIDATES)
    boxes, scores = _best(steps, boxes, scores, count)
    num_classes = np.array([len(task["found"]["classes"])], np.int64)
    label = steps.add("ArgMax", scores, axis=2, keepdims=0)
    is_label = steps.add("OneHot", label, num_classes, np.array([0, 1], np.float32), axis=-1)
    own = steps.add("Mul", scores, is_label)
    stays = _stays(
        steps,
        own,
        steps.add(
            "NonMaxSuppression",
            boxes,
            steps.add("Transpose", own, perm=[0, 2, 1]),
            np.array([MOST_DETECTIONS], np.int64),
            np.array([told["overlap"]], np.float32),
            np.array([told["score_threshold"]], np.float32),
        ),
    )
    boxes, own = (steps.add("Mul", each, stays) for each in (boxes, own))
    return _best(steps, boxes, own, min(count, MOST_DETECTIONS))


def _stays(steps: Steps, scores: ir.Value, kept: ir.Value) -> ir.Value:
    """Return 1 for each box that is kept, else 0, (batch, K, 1), of rows (item, class, box)."""
    best = steps.add("ReduceMax", scores, np.array([2]), keepdims=0)
    none = steps.add("Mul", best, np.array([0], np.float32))
    where = steps.add("Gather", kept, np.array([0, 2]), axis=1)
    num = steps.add("Shape", where, start=0, end=1)
    ones = steps.add("Expand", np.array([1], np.float32), num)
    return steps.add("Unsqueeze", steps.add("ScatterND", none, where, ones), np.array([2]))


def _best(steps: Steps, boxes: ir.Value, scores: ir.Value, num: int) -> tuple[ir.Value, ir.Value]:
    """Return the `num` boxes of the best scores, best first, and their scores."""
    best = steps.add("ReduceMax", scores, np.array([2]), keepdims=0)
    order = steps.add("TopK", best, np.array([num], np.int64), output=1)
    rows = steps.add("Unsqueeze", order, np.array([2]))
    return (
        steps.add("GatherND", boxes, rows, batch_dims=1),
        steps.add("GatherND", scores, rows, batch_dims=1),
    )
