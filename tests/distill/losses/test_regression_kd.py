"""Teacher-bounded regression against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.distill.losses.regression_kd import regression_kd
from kdeploy.errors import ModelError
from tests.distill.formulas import drawn, gradient, value

TRUE = drawn(9, 6, 3)[0]
LABELS = torch.from_numpy(TRUE)


@pytest.mark.parametrize("margin", [0.0, 0.5, 20.0])
def test_counts_items_where_the_student_is_not_better_by_the_margin(margin):
    student, teacher = drawn(0, 6, 3)
    own, other = (((z - TRUE) ** 2).sum(1) for z in (student, teacher))
    expected = np.where(own + margin > other, own, 0).mean()
    found = value(regression_kd, student, teacher, LABELS, margin=margin)
    assert found == pytest.approx(expected, rel=1e-5)
    assert expected > 0


def test_who_is_better_than_the_teacher_has_nothing_to_learn():
    student = torch.from_numpy(TRUE + 0.1).requires_grad_()
    regression_kd(student, LABELS + 1.0, LABELS).backward()
    assert not student.grad.any()


def test_who_is_worse_learns_the_truth_not_the_teacher():
    student = torch.from_numpy(TRUE + 2.0).requires_grad_()
    regression_kd(student, LABELS - 1.0, LABELS).backward()
    assert torch.allclose(student.grad, 2 * 2.0 * torch.ones(6, 3) / 6)


def test_classes_are_no_values():
    with pytest.raises(ModelError, match="one true value for each output") as caught:
        gradient(regression_kd, *drawn(0, 6, 3))
    assert "regression" in caught.value.hint
