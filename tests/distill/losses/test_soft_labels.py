"""Soft labels against numpy, and beside KD."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from kdeploy.distill.losses.kd import kd
from kdeploy.distill.losses.soft_labels import soft_labels
from tests.distill.formulas import LOGITS, drawn, gradient, softmax, value


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_is_the_formula(temperature):
    student, teacher = drawn(0, 6, 5)
    q, p = (softmax(z, temperature) for z in (student, teacher))
    expected = -(temperature**2) * (p * np.log(q)).sum(1).mean()
    found = value(soft_labels, student, teacher, temperature=temperature)
    assert found == pytest.approx(expected, rel=1e-5)


@given(student=LOGITS, teacher=LOGITS)
def test_has_the_gradient_of_kd(student, teacher):
    found = gradient(soft_labels, student, teacher, temperature=3.0)
    assert torch.allclose(found, gradient(kd, student, teacher, temperature=3.0), atol=1e-5)


def test_is_at_least_the_teacher_s_entropy():
    _, teacher = drawn(1, 6, 5)
    p = softmax(teacher)
    entropy = -(p * np.log(p)).sum(1).mean()
    assert value(soft_labels, teacher + 3, teacher) == pytest.approx(entropy, rel=1e-5)
