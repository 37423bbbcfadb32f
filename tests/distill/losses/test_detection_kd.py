"""Detections cell by cell, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.distill.contract import TaskFacts
from kdeploy.distill.losses.detection_kd import DetectionKd
from kdeploy.errors import ModelError
from tests.distill.formulas import drawn

CLASSES = 3
FACTS = TaskFacts(num_classes=CLASSES, num_items=2)


def sides(seed, items=2, cells=5):
    """Return boxes that overlap in part, with logits, of a student and a teacher."""
    made = []
    for z in drawn(seed, items, cells, 4 + CLASSES):
        z[..., :2] = np.abs(z[..., :2])
        z[..., 2:4] = z[..., :2] + 2 + np.abs(z[..., 2:4])
        made.append(z)
    return made


def value(student, teacher, **options):
    both = [torch.as_tensor(z) for z in (student, teacher)]
    return DetectionKd(*(z.shape for z in both), FACTS, **options)(*both, None)


def generalized(one, other):
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = np.prod(np.maximum(high - low, 0))
    areas = [np.prod(b[2:] - b[:2]) for b in (one, other)]
    union = sum(areas) - shared
    hull = np.prod(np.maximum(one[2:], other[2:]) - np.minimum(one[:2], other[:2]))
    return shared / union - (hull - union) / hull


@pytest.mark.parametrize("boxes", [0.0, 5.0])
@pytest.mark.parametrize("focus", [0.0, 1.0, 2.0])
def test_is_the_quality_focal_loss_and_the_overlap(boxes, focus):
    student, teacher = (z.astype(np.float64) for z in sides(0))
    own, other = (1 / (1 + np.exp(-z[..., 4:])) for z in (student, teacher))
    entropy = -(other * np.log(own) + (1 - other) * np.log(1 - own))
    scores = (entropy * np.abs(own - other) ** focus).sum()
    certain = other.max(-1)
    fits = np.array(
        [[generalized(s, t) for s, t in zip(*item, strict=True)]
         for item in zip(student[..., :4], teacher[..., :4], strict=True)]
    )  # fmt: skip
    expected = (scores + boxes * ((1 - fits) * certain).sum()) / certain.sum()
    found = value(*sides(0), boxes=boxes, focus=focus).item()
    assert found == pytest.approx(expected, rel=1e-4)


def test_boxes_of_cells_where_the_teacher_sees_nothing_are_not_learned():
    student, teacher = map(torch.from_numpy, sides(1))
    teacher[:, 0, 4:] = -60.0
    student.requires_grad_()
    value(student, teacher).backward()
    assert student.grad[:, 0, :4].abs().max() < 1e-12
    assert student.grad[:, 1, :4].abs().max() > 1e-6


def test_bins_beside_are_left_to_another_loss():
    student, teacher = sides(2)
    wide = [np.concatenate([z, np.ones((2, 5, 8), np.float32) * n], -1) for n, z in
            enumerate((student, teacher))]  # fmt: skip
    assert value(*wide).item() == pytest.approx(value(student, teacher).item(), rel=1e-6)


def test_other_cells_are_refused():
    with pytest.raises(ModelError, match="one by one") as caught:
        DetectionKd((2, 5, 7), (2, 6, 7), FACTS)
    assert "pkd" in caught.value.hint
