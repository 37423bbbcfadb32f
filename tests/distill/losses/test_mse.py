"""Outputs by value against numpy."""

from __future__ import annotations

import pytest
import torch

from kdeploy.distill.losses.mse import Mse
from tests.distill.formulas import drawn, unit


def value(student, teacher, **options):
    return Mse(student.shape, teacher.shape, None, **options)(
        torch.as_tensor(student), torch.as_tensor(teacher), None
    ).item()


@pytest.mark.parametrize("shape", [(6, 5), (6, 3, 4, 4), (6, 7, 2)])
def test_is_the_mean_over_everything(shape):
    student, teacher = drawn(0, *shape)
    assert value(student, teacher) == pytest.approx(((student - teacher) ** 2).mean(), rel=1e-5)


def test_normalised_it_is_twice_one_less_the_cosine_over_the_width():
    student, teacher = drawn(1, 6, 5)
    cosine = (unit(student) * unit(teacher)).sum(1).mean()
    found = value(student, teacher, normalize=True)
    assert found == pytest.approx(2 * (1 - cosine) / 5, rel=1e-4)
