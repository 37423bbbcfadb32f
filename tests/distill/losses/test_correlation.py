"""CC against numpy, and its series against the kernel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from kdeploy.distill.losses.correlation import correlation
from tests.distill.formulas import drawn, rotation, unit, value


def series(vectors, gamma=0.4):
    """Return the paper's Taylor series of the kernel, at order 2."""
    x = 2 * gamma * (unit(vectors.astype(np.float64)) @ unit(vectors.astype(np.float64)).T)
    return np.exp(-2 * gamma) * (1 + x + x**2 / 2)


def kernel(vectors, gamma=0.4):
    directions = unit(vectors.astype(np.float64))
    return np.exp(-gamma * cdist(directions, directions, "sqeuclidean"))


@pytest.mark.parametrize("gamma", [0.4, 1.0])
def test_is_the_formula_also_for_other_numbers_of_channels(gamma):
    student, teacher = drawn(0, 6, 7)[0], drawn(1, 6, 9)[1]
    expected = ((series(student, gamma) - series(teacher, gamma)) ** 2).mean()
    assert value(correlation, student, teacher, gamma=gamma) == pytest.approx(expected, rel=1e-4)


def test_of_high_order_it_is_the_gaussian_kernel():
    student, teacher = drawn(2, 6, 7)
    expected = ((kernel(student) - kernel(teacher)) ** 2).mean()
    assert value(correlation, student, teacher, order=9) == pytest.approx(expected, rel=1e-4)
    assert value(correlation, student, teacher) == pytest.approx(expected, rel=0.2)


def test_maps_are_averaged_over_their_positions():
    student, teacher = drawn(3, 6, 7, 3, 3)[0], drawn(3, 6, 4, 5)[0]
    expected = value(correlation, student.mean((2, 3)), teacher.mean(2))
    assert value(correlation, student, teacher) == pytest.approx(expected, rel=1e-4)


@given(seed=st.integers(0, 100), scale=st.floats(0.1, 10))
def test_does_not_see_orthogonal_maps_and_scale(seed, scale):
    student, teacher = drawn(4, 6, 7)
    turned = np.float32(scale) * student @ rotation(seed, 7)
    plain = value(correlation, student, teacher)
    assert value(correlation, turned, teacher) == pytest.approx(plain, rel=1e-3)
