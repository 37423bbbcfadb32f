"""Pixel-wise distillation: `kd` of all pixels as items."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.distill.contract import Batch
from kdeploy.distill.losses.kd import kd
from kdeploy.distill.losses.pixel_kd import PixelKd
from kdeploy.errors import ModelError
from tests.distill.formulas import drawn, softmax

CLASSES = torch.zeros(4, 5, 6, dtype=torch.int64)


def value(student, teacher, labels, **options):
    """Return the loss of maps with channels first, as networks make them and as tasks give them."""
    sides = [torch.as_tensor(z) for z in (student, teacher)]
    batch = Batch(torch.zeros(len(labels)), labels, torch.arange(len(labels)))
    return PixelKd(*(z.shape for z in sides), None, **options)(*sides, batch).item()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_is_the_divergence_over_classes(temperature):
    student, teacher = drawn(0, 4, 3, 5, 6)
    rows = [z.transpose(0, 2, 3, 1).reshape(-1, 3) for z in (student, teacher)]
    own, other = (softmax(z, temperature) for z in rows)
    expected = temperature**2 * (other * np.log(other / own)).sum(1).mean()
    found = value(student, teacher, CLASSES, temperature=temperature)
    assert found == pytest.approx(expected, rel=1e-4)
    of_items = kd(*map(torch.from_numpy, rows), CLASSES, temperature=temperature).item()
    assert found == pytest.approx(of_items, rel=1e-5)


def test_does_not_see_what_is_added_to_a_pixel_but_what_is_added_to_a_class():
    student, teacher = drawn(1, 4, 3, 5, 6)
    random = np.random.default_rng(2)
    plain = value(student, teacher, CLASSES)
    of_pixel = random.normal(size=(4, 1, 5, 6)).astype(np.float32)
    of_class = random.normal(size=(4, 3, 1, 1)).astype(np.float32)
    assert value(student + of_pixel, teacher, CLASSES) == pytest.approx(plain, rel=1e-4)
    assert value(student + of_class, teacher, CLASSES) != pytest.approx(plain, rel=1e-2)


def test_a_single_channel_is_a_class_beside_none():
    student, teacher = drawn(3, 4, 1, 5, 6)
    both = (np.concatenate([np.zeros_like(z), z], axis=1) for z in (student, teacher))
    expected = value(*both, CLASSES)
    assert value(student, teacher, CLASSES) == pytest.approx(expected, rel=1e-5)
    assert expected > 0


def test_pixels_of_no_class_may_be_left_out_whatever_stands_there():
    student, teacher = drawn(4, 4, 3, 5, 6)
    labels = CLASSES.clone()
    labels[:, :2] = -100
    expected = value(student[:, :, 2:], teacher[:, :, 2:], CLASSES[:, 2:])
    student[:, :, :2], teacher[:, :, :2] = np.nan, 1e30
    found = value(student, teacher, labels, at_ignored=False)
    assert found == pytest.approx(expected, rel=1e-4)
    nothing = value(student, teacher, CLASSES - 100, at_ignored=False)
    assert nothing == 0


def test_labels_of_another_size_are_those_of_the_nearest_pixel():
    student, teacher = drawn(5, 4, 3, 5, 6)
    labels = CLASSES.clone()
    labels[:, :2] = -100
    fine = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    found = value(student, teacher, fine, at_ignored=False)
    expected = value(student, teacher, labels, at_ignored=False)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_teacher_of_another_size_is_interpolated():
    student, teacher = drawn(6, 4, 3, 5, 6)[0], drawn(7, 4, 3, 10, 12)[1]
    small = torch.nn.functional.interpolate(
        torch.from_numpy(teacher), (5, 6), mode="bilinear", align_corners=False
    )
    found = value(student, teacher, CLASSES)
    assert found == pytest.approx(value(student, small, CLASSES), rel=1e-5)


def test_vectors_and_other_classes_are_refused():
    for shapes in ([(4, 3), (4, 3)], [(4, 3, 5, 6), (4, 4, 5, 6)]):
        with pytest.raises(ModelError, match="`pixel_kd` compares logits") as caught:
            PixelKd(*shapes, None)
        assert "segmentation" in caught.value.hint
