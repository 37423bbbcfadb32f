"""NKD against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.distill.losses.nkd import nkd
from kdeploy.errors import ModelError
from tests.distill.formulas import LABELS, ROWS, drawn, gradient, softmax, value, without_target


def formula(student, teacher, *, gamma=1.5, temperature=1.0):
    target = ROWS, LABELS.numpy()
    own = -(softmax(teacher)[target] * np.log(softmax(student)[target])).mean()
    q, p = (softmax(without_target(z), temperature) for z in (student, teacher))
    return own - gamma * temperature**2 * (p * np.log(q)).sum(1).mean()


@pytest.mark.parametrize("options", [{}, {"gamma": 0.0}, {"temperature": 4.0, "gamma": 0.3}])
def test_is_the_formula(options):
    student, teacher = drawn(0, 6, 5)
    expected = formula(student, teacher, **options)
    assert value(nkd, student, teacher, **options) == pytest.approx(expected, rel=1e-5)


def test_the_others_do_not_depend_on_how_sure_the_teacher_is_of_the_target():
    student, teacher = drawn(1, 6, 5)
    surer = teacher.copy()
    surer[ROWS, LABELS] += 5
    rest = [
        value(nkd, student, t, gamma=1.0) - value(nkd, student, t, gamma=0.0)
        for t in (teacher, surer)
    ]
    assert rest[0] == pytest.approx(rest[1], rel=1e-5)


def test_pulls_the_target_beyond_the_teacher():
    teacher = torch.from_numpy(drawn(2, 6, 5)[1])
    found = gradient(nkd, teacher, teacher)
    assert (found[ROWS, LABELS] < 0).all()
    assert found.sum(1).abs().max() < 1e-6


def test_refuses_two_classes():
    with pytest.raises(ModelError, match="`nkd` compares the classes beside the target, found 2"):
        value(nkd, *drawn(3, 6, 2))


def test_refuses_mixed_labels():
    with pytest.raises(ModelError, match="`nkd` needs one class index an item"):
        value(nkd, *drawn(4, 6, 5), torch.rand(6, 5))
