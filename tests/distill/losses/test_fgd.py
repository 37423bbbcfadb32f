"""Focal and global distillation against numpy, term by term."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.distill.contract import Batch
from kdeploy.distill.losses.fgd import Fgd
from kdeploy.errors import ModelError
from tests.distill.formulas import drawn, softmax

SHAPE = (2, 3, 8, 8)
IMAGE = (2, 1, 64, 64)  # stride 8
TERMS = ("objects", "background", "attention", "context")
NOTHING = [0, 0, 0, 0, -1]


def term(name, student, teacher, boxes):
    weights = {other: float(other == name) for other in TERMS}
    loss = Fgd(SHAPE, SHAPE, None, **weights)
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(2, -1, 5)
    batch = Batch(torch.zeros(IMAGE), boxes, torch.arange(2))
    return loss(torch.from_numpy(student), torch.from_numpy(teacher), batch).item()


def attentions(features):
    strength = np.abs(features.astype(np.float64))
    positions = softmax(strength.mean(1).reshape(2, 64), 0.5).reshape(2, 8, 8) * 64
    channels = softmax(strength.mean((2, 3)), 0.5) * 3
    return positions, channels


def weighted(student, teacher, mask):
    positions, channels = attentions(teacher)
    weight = positions[:, None] * channels[:, :, None, None] * mask[:, None]
    return (weight * (student - teacher).astype(np.float64) ** 2).sum() / 2


def test_objects_and_background_are_weighed_by_area_and_by_the_teacher_s_attention():
    student, teacher = drawn(0, *SHAPE)
    # In cells: columns 1..2 and rows 2..4; a smaller one, in it: column 1, row 2.
    boxes = [[[8, 16, 24, 40, 0], [8, 16, 16, 24, 1]], [[0, 0, 64, 8, 2], NOTHING]]
    objects = np.zeros((2, 8, 8))
    objects[0, 2:5, 1:3], objects[0, 2, 1], objects[1, 0] = 1 / 6, 1.0, 1 / 8
    found = term("objects", student, teacher, boxes)
    assert found == pytest.approx(weighted(student, teacher, objects), rel=1e-4)
    background = (objects == 0) / np.array([58, 56])[:, None, None]
    found = term("background", student, teacher, boxes)
    assert found == pytest.approx(weighted(student, teacher, background), rel=1e-4)


def test_attentions_are_compared_by_absolute_differences():
    student, teacher = drawn(1, *SHAPE)
    pairs = zip(attentions(student), attentions(teacher), strict=True)
    expected = sum(np.abs(own - other).sum() for own, other in pairs) / 2
    found = term("attention", student, teacher, [[NOTHING]] * 2)
    assert found == pytest.approx(expected, rel=1e-4)


def test_without_objects_all_is_background():
    student, teacher = drawn(2, *SHAPE)
    assert term("objects", student, teacher, [[NOTHING]] * 2) == 0
    nobody = torch.zeros(2, 0, 5).tolist()
    everywhere = np.full((2, 8, 8), 1 / 64)
    for boxes in ([[NOTHING]] * 2, nobody):
        found = term("background", student, teacher, boxes)
        assert found == pytest.approx(weighted(student, teacher, everywhere), rel=1e-4)


def test_under_an_object_that_fills_the_image_there_is_no_background():
    student, teacher = drawn(3, *SHAPE)
    assert term("background", student, teacher, [[[0, 0, 64, 64, 0]]] * 2) == 0


def test_an_object_that_is_there_twice_counts_once():
    student, teacher = drawn(4, *SHAPE)
    once = [[8, 16, 24, 40, 0]]
    found = [term("objects", student, teacher, [once * times] * 2) for times in (1, 2)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_labels_that_are_no_boxes_are_refused():
    loss = Fgd(SHAPE, SHAPE, None)
    batch = Batch(torch.zeros(IMAGE), torch.arange(2), torch.arange(2))
    with pytest.raises(ModelError, match=r"`fgd` needs boxes .* found labels \(2,\)") as caught:
        loss(*map(torch.from_numpy, drawn(0, *SHAPE)), batch)
    assert "detection" in caught.value.hint
