"""What losses compare of detectors: (batch, candidates, 4 + classes + 4 * bins)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from kdeploy.errors import ModelError
from kdeploy.tasks.box_overlap import generalized_overlap

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


def predictions_apart(
    student: Tensor, teacher: Tensor, num_classes: int, *, boxes: float, focus: float
) -> Tensor:
    """Return how far detections are from the teacher's: scores, and `boxes` times their places.

    Classes are independent of each other, so each is a yes or no, weighed by how wrong it is to the
    power of `focus` (quality focal loss, Li et al., arXiv:2006.04388); boxes count by the teacher's
    best score. Both are sums over all cells and classes, over the sum of the teacher's best score
    of each cell: as the loss with labels is over the sum of what was assigned.

    Args:
        student: (batch, candidates, 4 + classes + ...).
        teacher: Of as many candidates; no gradient reaches it.
        num_classes: How many columns behind the boxes are logits.
        boxes: Weight of the boxes, beside 1 for the scores.
        focus: How much less a score counts that is nearly right; 0: all alike.
    """
    own, other = (split_detections(z, num_classes) for z in (student, teacher.detach()))
    wanted = other.logits.sigmoid()
    certainty = wanted.amax(-1)
    # At least 1: where a batch holds no object, the sum would divide by nearly 0.
    total = certainty.sum().clamp(min=1)
    entropy = functional.binary_cross_entropy_with_logits(own.logits, wanted, reduction="none")
    wrong = (own.logits.sigmoid() - wanted).abs() ** focus
    _, fit = generalized_overlap(own.boxes, other.boxes)
    placed = ((1 - fit) * certainty).sum()
    return ((entropy * wrong).sum() + boxes * placed) / total
