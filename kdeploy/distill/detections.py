"""What losses compare of detectors: (batch, candidates, 4 + classes + 4 * bins)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from kdeploy.errors import ModelError

EDGES = 4


class Detections(NamedTuple):
    """The parts of it."""

    boxes: Tensor
    """(batch, candidates, 4): corners in pixels."""
    logits: Tensor
    """(batch, candidates, classes)."""
    bins: Tensor
    """(batch, candidates, 4, bins): logits; no bins where edges are distances."""


def split_detections(values: Tensor, num_classes: int) -> Detections:
    """Return boxes, logits and bins."""
    boxes, logits = values[..., :EDGES], values[..., EDGES : EDGES + num_classes]
    bins = values[..., EDGES + num_classes :]
    return Detections(boxes, logits, bins.reshape(*bins.shape[:2], EDGES, -1))


def check_detections(
    student: Sequence[int], teacher: Sequence[int], num_classes: int, *, loss: str
) -> None:
    """Raise ModelError unless both shapes are detections of the same cells and classes."""
    is_alike = len(student) == len(teacher) == 3 and student[1] == teacher[1]
    if not is_alike or min(student[2], teacher[2]) < EDGES + num_classes:
        raise ModelError(
            f"`{loss}` compares the candidates of two detectors one by one, found {tuple(student)} "
            f"of the student and {tuple(teacher)} of the teacher",
            hint="give both heads the same strides, or use `pkd`, which compares features of any",
        )
