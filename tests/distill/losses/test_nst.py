"""Neuron selectivity transfer against the kernel's definition, and what it must not see."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdeploy.distill.losses.nst import nst
from kdeploy.errors import ModelError

GOLDEN = Path(__file__).parents[1] / "golden" / "nst.json"
LABELS = torch.zeros(4, dtype=torch.int64)


def features(seed, *shape):
    return np.random.default_rng(seed).normal(size=(4, *shape)).astype(np.float32)


def value(student, teacher):
    return nst(torch.as_tensor(student), torch.as_tensor(teacher), LABELS).item()


def formula(student, teacher):
    """Return the kernel over all pairs of channels, one by one, as the paper writes it."""

    def mean_kernel(first, second):
        return np.mean([[(x @ y) ** 2 for x in first] for y in second])

    def unit(f):
        rows = f.reshape(len(f), -1).astype(np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    per_item = []
    for own, other in zip(map(unit, student), map(unit, teacher), strict=True):
        crossed = mean_kernel(own, other)
        per_item.append(mean_kernel(own, own) + mean_kernel(other, other) - 2 * crossed)
    return np.mean(per_item)


@pytest.mark.parametrize("size", [(4, 4), (7,)])
def test_is_the_formula_also_for_other_numbers_of_channels(size):
    student, teacher = features(0, 3, *size), features(1, 6, *size)
    assert value(student, teacher) == pytest.approx(formula(student, teacher), rel=1e-4)


def test_is_the_distance_of_the_second_moments():
    # The kernel's feature map is x x': the discrepancy is a norm, so it is never negative.
    unit = [f.reshape(4, -1, 16) for f in (features(2, 3, 4, 4), features(3, 5, 4, 4))]
    unit = [f / np.linalg.norm(f, axis=2, keepdims=True) for f in unit]
    moments = [np.einsum("bcp,bcq->bpq", f, f) / f.shape[1] for f in unit]
    expected = ((moments[0] - moments[1]) ** 2).sum((1, 2)).mean()
    found = value(features(2, 3, 4, 4), features(3, 5, 4, 4))
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_larger_map_is_pooled():
    small, large = features(2, 3, 4, 4), features(3, 5, 8, 8)
    expected = formula(small, large.reshape(4, 5, 4, 2, 4, 2).mean((3, 5)))
    assert value(small, large) == pytest.approx(expected, rel=1e-4)
    assert value(large, small) == pytest.approx(expected, rel=1e-4)


@given(seed=st.integers(0, 1000))
def test_does_not_see_the_order_or_the_sign_of_channels(seed):
    student, teacher = features(4, 6, 5, 5), features(5, 6, 5, 5)
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1, 1], size=(1, 6, 1, 1)).astype(np.float32)
    mapped = value(student[:, rng.permutation(6)] * signs, teacher[:, rng.permutation(6)])
    assert mapped == pytest.approx(value(student, teacher), rel=1e-3)


@given(seed=st.integers(0, 1000))
def test_does_not_see_the_scale_of_a_channel(seed):
    student, teacher = features(6, 6, 5, 5), features(7, 6, 5, 5)
    scale = np.random.default_rng(seed).uniform(0.1, 10, (1, 6, 1, 1)).astype(np.float32)
    assert value(student * scale, teacher) == pytest.approx(value(student, teacher), rel=1e-3)


def test_is_zero_at_channels_that_are_there_twice():
    student = features(8, 3, 4, 4)
    assert value(student, np.concatenate([student] * 2, 1)) == pytest.approx(0, abs=1e-7)


def test_a_dead_map_stays_finite():
    student = torch.zeros(4, 3, 5, 5, requires_grad=True)
    nst(student, torch.from_numpy(features(8, 3, 5, 5)), LABELS).backward()
    assert student.grad.isfinite().all()


def test_keeps_its_value():
    random = np.random.RandomState(0)
    sides = [random.standard_normal((8, 6, 4, 4)).astype(np.float32) for _ in range(2)]
    expected = json.loads(GOLDEN.read_text())["value"]
    assert value(*sides) == pytest.approx(expected, rel=1e-5)


def test_refuses_vectors():
    with pytest.raises(ModelError, match="needs features with positions"):
        value(features(0, 3), features(1, 3))
