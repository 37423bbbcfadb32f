"""Skewed divergence against the formula, its limits and its bound."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdeploy.distill.divergence import divergence
from kdeploy.distill.losses.jsd import generalized
from kdeploy.distill.losses.skew_kl import skew_kl

LABELS = torch.zeros(5, dtype=torch.int64)


def logits(seed, scale=3.0):
    return torch.randn(5, 7, generator=torch.Generator().manual_seed(seed)) * scale


def by_formula(student, teacher, alpha, *, reverse):
    q, p = (np.exp(x - np.logaddexp.reduce(x, -1, keepdims=True)) for x in (student, teacher))
    known, other = (q, p) if reverse else (p, q)
    return (known * np.log(known / (alpha * known + (1 - alpha) * other))).sum(-1).mean()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 0.9])
def test_is_the_formula(alpha, reverse):
    student, teacher = logits(1), logits(2)
    found = skew_kl(student, teacher, LABELS, alpha=alpha, reverse=reverse)
    wanted = by_formula(student.double().numpy(), teacher.double().numpy(), alpha, reverse=reverse)
    assert float(found) == pytest.approx(wanted, rel=1e-4)


def test_without_a_skew_it_is_the_plain_divergence_and_with_all_of_it_nothing():
    student, teacher = logits(3), logits(4)
    plain = skew_kl(student, teacher, LABELS, alpha=0.0)
    torch.testing.assert_close(plain, divergence(student, teacher))
    back = skew_kl(student, teacher, LABELS, alpha=0.0, reverse=True)
    torch.testing.assert_close(back, generalized(student, teacher, beta=1.0))
    assert float(skew_kl(student, teacher, LABELS, alpha=1.0)) == 0


@given(seed=st.integers(0, 99), alpha=st.floats(0.01, 1), scale=st.floats(0.1, 60))
def test_it_is_bounded_and_zero_for_logits_that_differ_by_a_number(seed, alpha, scale):
    student, teacher = logits(seed, scale), logits(seed + 1, scale)
    for reverse in (False, True):
        value = float(skew_kl(student, teacher, LABELS, alpha=alpha, reverse=reverse))
        assert -1e-5 <= value <= -log(alpha) + 1e-4
    assert float(skew_kl(teacher + 2, teacher, LABELS, alpha=alpha)) == pytest.approx(0, abs=1e-5)


def test_gradients_stay_finite_where_the_student_finds_the_teachers_choice_impossible():
    student = torch.tensor([[200.0, -200.0]], requires_grad=True)
    value = skew_kl(student, torch.tensor([[-200.0, 200.0]]), LABELS[:1])
    value.backward()
    assert float(value.detach()) == pytest.approx(-log(0.1), rel=1e-5)
    assert student.grad is not None
    assert student.grad.isfinite().all()
