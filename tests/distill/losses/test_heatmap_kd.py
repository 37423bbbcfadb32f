"""Heat maps: the mean squared error, also of keypoints that no label shows."""

from __future__ import annotations

import pytest
import torch

from kdeploy.distill.losses.heatmap_kd import heatmap_kd
from tests.distill.formulas import drawn, value


def test_is_the_mean_squared_error_whatever_the_labels_say():
    student, teacher = drawn(0, 4, 3, 5, 6)
    expected = ((student - teacher) ** 2).mean()
    for labels in (torch.zeros(4, 3, 3), torch.ones(4, 3, 3)):
        found = value(heatmap_kd, student, teacher, labels)
        assert found == pytest.approx(expected, rel=1e-5)


def test_a_teacher_of_another_size_is_interpolated():
    student, teacher = drawn(1, 4, 3, 5, 6)[0], drawn(2, 4, 3, 10, 12)[1]
    # Half the size, halfway between pixels: the mean of four.
    small = teacher.reshape(4, 3, 5, 2, 6, 2).mean((3, 5))
    assert value(heatmap_kd, student, teacher) == pytest.approx(
        ((student - small) ** 2).mean(), rel=1e-4
    )
