"""Attention transfer against numpy, and what it must not see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdeploy.distill.losses.attention import attention
from kdeploy.errors import ModelError

LABELS = torch.zeros(4, dtype=torch.int64)


def features(seed, *shape):
    return np.random.default_rng(seed).normal(size=(4, *shape)).astype(np.float32)


def value(student, teacher, **options):
    return attention(torch.as_tensor(student), torch.as_tensor(teacher), LABELS, **options).item()


def formula(student, teacher, power):
    maps = []
    for f in (student, teacher):
        q = (np.abs(f.astype(np.float64)) ** power).mean(1).reshape(4, -1)
        maps.append(q / np.linalg.norm(q, axis=1, keepdims=True))
    return ((maps[0] - maps[1]) ** 2).mean()


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("size", [(6, 6), (9,)])
def test_is_the_formula_also_for_other_numbers_of_channels(power, size):
    student, teacher = features(0, 3, *size), features(1, 8, *size)
    expected = formula(student, teacher, power)
    assert value(student, teacher, power=power) == pytest.approx(expected, rel=1e-4)


def test_the_larger_map_is_pooled():
    small, large = features(2, 3, 4, 4), features(3, 5, 8, 8)
    pooled = large.reshape(4, 5, 4, 2, 4, 2).mean((3, 5))
    expected = formula(small, pooled, 2)
    assert value(small, large) == pytest.approx(expected, rel=1e-4)
    assert value(large, small) == pytest.approx(expected, rel=1e-4)


@given(seed=st.integers(0, 1000))
def test_does_not_see_the_order_of_channels(seed):
    student, teacher = features(4, 6, 5, 5), features(5, 6, 5, 5)
    rng = np.random.default_rng(seed)
    shuffled = value(student[:, rng.permutation(6)], teacher[:, rng.permutation(6)])
    assert shuffled == pytest.approx(value(student, teacher), rel=1e-4)


@given(factor=st.floats(0.01, 100), other=st.floats(0.01, 100))
def test_does_not_see_a_positive_scale(factor, other):
    student, teacher = features(6, 6, 5, 5), features(7, 6, 5, 5)
    scaled = value(student * np.float32(factor), teacher * np.float32(other))
    assert scaled == pytest.approx(value(student, teacher), rel=1e-3)


def test_a_dead_map_stays_finite():
    student = torch.zeros(4, 3, 5, 5, requires_grad=True)
    attention(student, torch.from_numpy(features(8, 3, 5, 5)), LABELS).backward()
    assert student.grad.isfinite().all()


def test_refuses_vectors():
    with pytest.raises(ModelError, match="needs features with positions"):
        value(features(0, 3), features(1, 3))
