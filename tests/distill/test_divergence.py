"""The one divergence against scipy."""

from __future__ import annotations

import pytest
import torch
from scipy.special import rel_entr, softmax

from kdeploy.distill.divergence import divergence


def test_is_that_of_scipy_from_teacher_to_student():
    student, teacher = torch.randn(7, 11), torch.randn(7, 11)
    p, q = (softmax(z.double().numpy() / 2, axis=1) for z in (teacher, student))
    expected = rel_entr(p, q).sum(1).mean()
    assert divergence(student, teacher, temperature=2.0).item() == pytest.approx(expected, rel=1e-5)
    other_way = rel_entr(q, p).sum(1).mean()
    assert expected != pytest.approx(other_way, rel=1e-3)


def test_no_gradient_reaches_the_teacher():
    student, teacher = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    divergence(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.any()
