"""Heat maps: the mean squared error, also of keypoints that no label shows."""

from __future__ import annotations

import pytest
import torch

from kdeploy.distill.losses.heatmap_kd import HeatmapKd
from tests.distill.formulas import drawn


def value(student, teacher):
    sides = [torch.as_tensor(z) for z in (student, teacher)]
    return HeatmapKd(*(z.shape for z in sides), None)(*sides, None).item()


def test_is_the_mean_squared_error():
    student, teacher = drawn(0, 4, 3, 5, 6)
    assert value(student, teacher) == pytest.approx(((student - teacher) ** 2).mean(), rel=1e-5)


def test_a_teacher_of_another_size_is_interpolated():
    student, teacher = drawn(1, 4, 3, 5, 6)[0], drawn(2, 4, 3, 10, 12)[1]
    # Half the size, halfway between pixels: the mean of four.
    small = teacher.reshape(4, 3, 5, 2, 6, 2).mean((3, 5))
    assert value(student, teacher) == pytest.approx(((student - small) ** 2).mean(), rel=1e-4)
