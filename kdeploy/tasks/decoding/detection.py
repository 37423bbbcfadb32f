"""Detection on the device: distances and logits, or decoded boxes, to the boxes that are shown."""

from __future__ import annotations

from typing import Any

import numpy as np

MOST_CANDIDATES = 300
"""Of an image, before suppression; the best are taken."""
MOST_DETECTIONS = 100
"""Of an image, as COCO counts them."""
EDGES = 4
TINY = 1e-6
SHOWN_SCORE = 0.3
"""From where on a recorded detection is looked for."""
LEAST_OVERLAP, MOST_SCORE_CHANGE = 0.7, 0.1
"""What a recorded detection and that of another processor share, and their scores differ by."""


def detections(
    boxes: Any, logits: Any, *, score_threshold: float, overlap: float, size: Any = (0, 0)
) -> Any:
    """Return the detections of one image (n, 6) float32: x1 y1 x2 y2 class score, the best first.

    A row of NaN is an answer that is no number.

    Args:
        boxes: (K, 4) in pixels.
        logits: (K, classes).
        score_threshold: What scores lower is left out.
        overlap: Intersection over union from which the worse of two boxes of a class goes.
        size: Height and width that boxes are cut to; 0: they are not.
    """
    if not (np.isfinite(boxes).all() and np.isfinite(logits).all()):
        return np.full((1, EDGES + 2), np.nan, np.float32)
    best = logits.argmax(axis=1)
    scores = 1 / (1 + np.exp(-np.take_along_axis(logits, best[:, None], 1)[:, 0]))
    # Suppression compares all pairs: 300 boxes are 90 000 overlaps, 8400 cells 70 million.
    order = np.argsort(-scores, kind="stable")[:MOST_CANDIDATES]
    order = order[scores[order] >= score_threshold]
    kept = order[
        kept_boxes(
            boxes[order], scores[order], best[order], overlap=overlap, most=MOST_DETECTIONS
        )
    ]  # fmt: skip
    inside = np.clip(boxes[kept], 0, [size[1], size[0]] * 2) if size[0] else boxes[kept]
    columns = (inside, best[kept][:, None], scores[kept][:, None])
    return np.concatenate(columns, axis=1).astype(np.float32)


def kept_boxes(boxes: Any, scores: Any, labels: Any, *, overlap: float, most: int) -> Any:
    """Return which boxes stay, best first: none overlaps a better one of its class by more.

    Equal scores are ordered by place.

    Args:
        boxes: (n, 4).
        scores: (n,).
        labels: (n,): boxes of other classes do not suppress one another.
        overlap: Intersection over union above which the worse box goes.
        most: At most so many are kept.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, labels = boxes[order], labels[order]
    is_over = (overlaps(boxes, boxes) > overlap) & (labels[:, None] == labels[None])
    stays = np.ones(len(order), bool)
    for place in range(len(order)):
        if stays[place]:
            # Greedy: a box that has gone itself suppresses none.
            stays[place + 1 :] &= ~is_over[place, place + 1 :]
    return order[stays][:most]


def overlaps(first: Any, second: Any) -> Any:
    """Return the intersection over union of all pairs of boxes (n, 4) and (m, 4), (n, m)."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    areas = [(b[:, 2:] - b[:, :2]).clip(0).prod(-1) for b in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def cell_centres(height: int, width: int, size: Any) -> tuple[Any, float]:
    """Return the centres of a map's cells (cells, 2), x and y in pixels, and pixels a cell."""
    steps = (size[1] / width, size[0] / height)  # x and y
    grid = np.meshgrid(
        (np.arange(width, dtype=np.float32) + 0.5) * np.float32(steps[0]),
        (np.arange(height, dtype=np.float32) + 0.5) * np.float32(steps[1]),
    )
    return np.stack([axis.reshape(-1) for axis in grid], 1), steps[1]


def candidates(outputs: Any, size: Any, *, scores: str) -> tuple[Any, Any]:
    """Return boxes (K, 4) and logits (K, classes) of all strides of one item.

    Args:
        outputs: By name: `boxes`, `scores`, of several strides `boxes.0`, `scores.0` and so on.
        size: Height and width of the input.
        scores: "logits", "probabilities", or "auto": probabilities only where boxes are decoded.
    """
    levels = [name.partition(".")[2] for name in outputs if name.partition(".")[0] == "boxes"]
    boxes, logits = [], []
    for level in levels:
        box, score = (
            np.asarray(outputs[kind + "." * bool(level) + level], np.float32)[0]
            for kind in ("boxes", "scores")
        )
        is_decoded = box.ndim == 2
        boxes.append(box if is_decoded else _boxes(box, size))
        score = score if is_decoded else score.reshape(len(score), -1).T
        if scores == "probabilities" or (scores == "auto" and is_decoded):
            inside = np.clip(score, TINY, 1 - TINY)
            score = np.log(inside / (1 - inside))
        logits.append(score)
    return np.concatenate(boxes), np.concatenate(logits)


def _boxes(distances: Any, size: Any) -> Any:
    """Return the boxes (cells, 4) of distances (4, H, W), or of logits of bins (4 * bins, H, W)."""
    points, stride = cell_centres(distances.shape[1], distances.shape[2], size)
    flat = distances.reshape(len(distances), -1).T
    if flat.shape[1] != EDGES:
        bins = flat.reshape(len(flat), EDGES, -1)
        weights = np.exp(bins - bins.max(-1, keepdims=True))
        places = np.arange(bins.shape[-1], dtype=np.float32)
        flat = (weights * places).sum(-1) / weights.sum(-1) * np.float32(stride)
    return np.concatenate([points - flat[:, :2], points + flat[:, 2:]], axis=1)


def found_in(outputs: Any, task: Any) -> Any:
    """Return the detections of one item (n, 6), see `detections`."""
    given, size = task["parameters"], task["found"]["size"]
    boxes, logits = candidates(outputs, size, scores=given["scores"])
    return detections(
        boxes, logits, score_threshold=given["score_threshold"], overlap=given["overlap"], size=size
    )


def decode(outputs: Any, task: Any) -> Any:
    """Return the boxes of one item; the outputs themselves where a head of one's own reads them."""
    if task["parameters"]["head"]:
        return {name: np.asarray(x).tolist() for name, x in outputs.items()}
    names = task["found"]["classes"]
    shown = [
        {"class": names[int(row[4])], "score": float(row[5]), "box": [float(v) for v in row[:4]]}
        for row in found_in(outputs, task)
        if np.isfinite(row).all()
    ]
    return {"boxes": shown}


def disagreement(outputs: Any, recorded: Any, task: Any, atol: float = 0.0) -> str | None:
    """Return the first recorded detection that one item's outputs lack, in words; "" for none.

    None where nothing can be compared: only a head of one's own can read the outputs.
    """
    if task["parameters"]["head"]:
        return None
    del atol  # of two outputs that a score and a box follow from, it says nothing of either
    return missing(found_in(outputs, task), found_in(recorded, task), task)


def missing(found: Any, expected: Any, task: Any) -> str:
    """Return the first expected detection that is not among those found, in words; "" for none.

    Only detections that are shown clearly are looked for, by class and place: of two that are
    equally good, another processor may keep the other one.
    """
    for row in expected[~(expected[:, 5] < SHOWN_SCORE)]:
        own = found[found[:, 4] == row[4]]
        shared = overlaps(row[None, :4], own[:, :4])[0]
        near = (shared >= LEAST_OVERLAP) & (np.abs(own[:, 5] - row[5]) <= MOST_SCORE_CHANGE)
        if not near.any():
            name = task["found"]["classes"][int(row[4])] if np.isfinite(row[4]) else "NaN"
            corners = ", ".join(f"{v:.1f}" for v in row[:4])
            return f"{name} at ({corners}) with score {row[5]:.2f} is missing"
    return ""
