"""Features by correlation against numpy's, and what they must not see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdeploy.registry import techniques
from tests.distill.formulas import drawn
from tests.distill.loss_calls import called

PKD = techniques("loss")["pkd"]
LABELS = torch.zeros(4, dtype=torch.int64)


def value(student, teacher):
    return called(PKD, torch.as_tensor(student), torch.as_tensor(teacher), LABELS).item()


@pytest.mark.parametrize("size", [(5, 6), (7,), ()])
def test_is_one_less_the_correlation_of_each_channel(size):
    student, teacher = drawn(0, 4, 3, *size)
    rows = (np.moveaxis(z, 1, 0).reshape(3, -1) for z in (student, teacher))
    correlations = [np.corrcoef(own, other)[0, 1] for own, other in zip(*rows, strict=True)]
    assert value(student, teacher) == pytest.approx(1 - np.mean(correlations), rel=1e-4)


@given(seed=st.integers(0, 1000))
def test_does_not_see_a_positive_affine_map_of_a_channel(seed):
    student, teacher = drawn(1, 4, 3, 5, 6)
    random = np.random.default_rng(seed)
    factor = random.uniform(0.1, 10, (1, 3, 1, 1)).astype(np.float32)
    shift = random.normal(size=(1, 3, 1, 1)).astype(np.float32)
    expected = value(student, teacher)
    assert value(student * factor + shift, teacher) == pytest.approx(expected, rel=1e-3)
    assert value(student, teacher * factor + shift) == pytest.approx(expected, rel=1e-3)


def test_a_constant_channel_has_a_finite_value():
    student, teacher = drawn(2, 4, 3, 5, 6)
    student[:, 0] = 2.5
    assert 0 < value(student, teacher) < 2
