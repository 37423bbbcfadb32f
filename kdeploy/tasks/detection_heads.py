"""What the outputs of a detector say: boxes in pixels of the input, and a logit for each class.

Understood without being told: `boxes` (N, 4, H, W), the distances from a cell's centre to the left,
top, right and bottom edge in pixels, or (N, 4 * bins, H, W), logits of how many strides each of
them is; with `scores` (N, C, H, W), logits; both also lists over strides. And what is decoded
already: `boxes` (N, K, 4), x1 y1 x2 y2, with `scores` (N, K, C). Written once for numpy and torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kdeploy.errors import ModelError
from kdeploy.tasks.decoding.detection import EDGES, TINY, cell_centres

BOXES, SCORES = "boxes", "scores"
FORMS = (
    "`boxes` (N, 4, H, W) and `scores` (N, C, H, W), each also a list over strides, or decoded "
    "`boxes` (N, K, 4) and `scores` (N, K, C)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """All candidates of a batch, N images of K each; arrays or tensors."""

    boxes: Any
    """(N, K, 4): x1, y1, x2, y2 in pixels of the input."""
    logits: Any
    """(N, K, C)."""
    points: Any = None
    """(K, 2): the cells' centres, x and y; None where boxes came decoded."""
    strides: Any = None
    """(K,): pixels a cell."""
    bins: Any = None
    """(N, K, 4, bins): logits of the distances in strides; None where distances came as such."""


class Head(Protocol):
    """Reads a detector's outputs; one of the user's own has the same method."""

    def decode(self, answer: Any, size: Sequence[int]) -> Detections | tuple[Any, Any]:
        """Return the candidates, or their boxes and logits, of an answer to inputs of a size.

        Args:
            answer: What the model returned, arrays or tensors.
            size: Height and width of the input.
        """
        ...


class KnownHead:
    """The head of the forms that are told at the top of this file."""

    def __init__(self, *, probabilities: bool | None = None) -> None:
        """Keep what scores are.

        Args:
            probabilities: Whether scores are probabilities, not logits; None: decoded ones are.
        """
        self.probabilities = probabilities

    def decode(self, answer: Any, size: Sequence[int]) -> Detections:
        """Return the candidates.

        Raises:
            ModelError: the outputs have another form.
        """
        boxes, scores = levels_of(answer)
        if boxes[0].ndim == 3:
            return self._decoded(boxes, scores)
        xp = _library(boxes[0])
        levels = [_level(b, s, size, xp) for b, s in zip(boxes, scores, strict=True)]
        logits = xp.concatenate([level.logits for level in levels], 1)
        has_bins = levels[0].bins is not None
        return Detections(
            boxes=xp.concatenate([level.boxes for level in levels], 1),
            logits=_logits(logits, xp) if self.probabilities else logits,
            points=xp.concatenate([level.points for level in levels], 0),
            strides=xp.concatenate([level.strides for level in levels], 0),
            bins=xp.concatenate([level.bins for level in levels], 1) if has_bins else None,
        )

    def _decoded(self, boxes: Sequence[Any], scores: Sequence[Any]) -> Detections:
        xp = _library(boxes[0])
        found = xp.concatenate(list(scores), 1)
        is_logits = self.probabilities is False
        return Detections(
            boxes=xp.concatenate(list(boxes), 1),
            logits=found if is_logits else _logits(found, xp),
        )


def levels_of(answer: Any) -> tuple[list[Any], list[Any]]:
    """Return the boxes and the scores of each stride, in the order of the answer.

    Raises:
        ModelError: they are not there, or do not belong together.
    """
    found: dict[str, dict[str, Any]] = {BOXES: {}, SCORES: {}}
    for name, value in answer.items() if isinstance(answer, Mapping) else ():
        kind, _, level = str(name).partition(".")
        if kind in found and isinstance(value, list | tuple):
            found[kind] |= {f"{level}.{place}": one for place, one in enumerate(value)}
        elif kind in found and isinstance(value, Mapping):
            found[kind] |= {f"{level}.{place}": one for place, one in value.items()}
        elif kind in found:
            found[kind][level] = value
    boxes, scores = found[BOXES], found[SCORES]
    if not boxes or boxes.keys() != scores.keys():
        names = (
            ", ".join(map(str, answer)) if isinstance(answer, Mapping) else type(answer).__name__
        )
        raise ModelError(
            f"a detector returns {FORMS}; found {names}",
            hint="return a dictionary with `boxes` and `scores`, or name the class that reads the "
            "outputs: `task: {detection: {head: path.py:Head}}`",
        )
    pairs = [(boxes[level], scores[level]) for level in boxes]
    for box, score in pairs:
        _check_pair(tuple(box.shape), tuple(score.shape))
    return [box for box, _ in pairs], [score for _, score in pairs]


def _check_pair(boxes: tuple[int, ...], scores: tuple[int, ...]) -> None:
    is_grid = len(boxes) == len(scores) == 4 and boxes[2:] == scores[2:] and not boxes[1] % EDGES
    is_decoded = len(boxes) == len(scores) == 3 and boxes[:2] == scores[:2] and boxes[2] == EDGES
    if not (is_grid or is_decoded) or boxes[0] != scores[0]:
        raise ModelError(
            f"a detector returns {FORMS}; found boxes {boxes} with scores {scores}",
            hint="both have one entry for each cell, or for each decoded box",
        )


def _level(boxes: Any, scores: Any, size: Sequence[int], xp: Any) -> Detections:
    """Return the candidates of one stride."""
    height, width = int(boxes.shape[2]), int(boxes.shape[3])
    centres, stride = cell_centres(height, width, size)
    points = _as(centres, boxes)
    strides = _as(np.full(height * width, stride, np.float32), boxes)
    flat = _flat(boxes, xp)  # (N, cells, 4 * bins)
    bins = None
    if flat.shape[2] != EDGES:
        bins = flat.reshape(flat.shape[0], flat.shape[1], EDGES, -1)
        flat = _expectation(bins, xp) * strides[None, :, None]
    low, high = points[None] - flat[..., :2], points[None] + flat[..., 2:]
    return Detections(
        boxes=xp.concatenate([low, high], -1),
        logits=_flat(scores, xp),
        points=points,
        strides=strides,
        bins=bins,
    )


def _flat(maps: Any, xp: Any) -> Any:
    """Return maps (N, channels, H, W) as (N, H * W, channels)."""
    return xp.moveaxis(maps.reshape(maps.shape[0], maps.shape[1], -1), 1, 2)


def _expectation(bins: Any, xp: Any) -> Any:
    """Return the mean bin under the softmax of the last axis."""
    weights = xp.exp(bins - xp.amax(bins, axis=-1, keepdims=True))
    places = _as(np.arange(bins.shape[-1], dtype=np.float32), bins)
    return (weights * places).sum(-1) / weights.sum(-1)


def _logits(probabilities: Any, xp: Any) -> Any:
    """Return the logits of probabilities, finite also at 0 and 1."""
    inside = xp.clip(probabilities, TINY, 1 - TINY)
    return xp.log(inside / (1 - inside))


def _library(value: Any) -> Any:
    """Return numpy for arrays and torch for tensors: both call these functions alike."""
    if isinstance(value, np.ndarray):
        return np
    import torch

    return torch


def _as(values: Any, like: Any) -> Any:
    """Return an array of constants as what `like` is, on its device."""
    if isinstance(like, np.ndarray):
        return values
    import torch

    return torch.from_numpy(values).to(like.device)
