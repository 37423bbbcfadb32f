"""RKD against numpy, and what it must not see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdeploy.distill.losses.rkd import rkd
from tests.distill.formulas import drawn, gradient, rotation, value

DISTANCES, ANGLES = {"angle": 0.0}, {"distance": 0.0}
SCALES, SHIFTS = st.floats(0.1, 10), st.floats(-5, 5)


def smooth_l1(a, b):
    d = np.abs(a - b)
    return np.where(d < 1, d**2 / 2, d - 0.5).mean()


def formula(student, teacher, *, distance=25.0, angle=50.0):
    pairs, triples = zip(
        *(relations(v.astype(np.float64)) for v in (student, teacher)), strict=True
    )
    return distance * smooth_l1(*pairs) + angle * smooth_l1(*triples)


def relations(v):
    n = len(v)
    far = np.array([[np.linalg.norm(v[i] - v[j]) for j in range(n)] for i in range(n)])
    cosines = np.zeros((n, n, n))
    for i, j, k in np.ndindex(n, n, n):
        if i not in (j, k):
            cosines[i, j, k] = (v[j] - v[i]) @ (v[k] - v[i]) / far[i, j] / far[i, k]
    return far / far[far > 0].mean(), cosines


@pytest.mark.parametrize("options", [{}, DISTANCES, ANGLES])
def test_is_the_formula_also_for_other_numbers_of_channels(options):
    student, teacher = drawn(0, 6, 7)[0], drawn(1, 6, 9)[1]
    expected = formula(student, teacher, **options)
    assert value(rkd, student, teacher, **options) == pytest.approx(expected, rel=1e-4)


def test_maps_are_averaged_over_their_positions():
    student, teacher = drawn(2, 6, 7, 3, 3)[0], drawn(2, 6, 4, 5)[0]
    expected = formula(student.mean((2, 3)), teacher.mean(2))
    assert value(rkd, student, teacher) == pytest.approx(expected, rel=1e-4)


@given(scale=SCALES, shift=SHIFTS)
def test_distances_do_not_see_scale_and_place(scale, shift):
    student, teacher = drawn(3, 6, 7)
    moved = np.float32(scale) * student + np.float32(shift)
    plain = value(rkd, student, teacher, **DISTANCES)
    assert value(rkd, moved, teacher, **DISTANCES) == pytest.approx(plain, rel=1e-3)


@given(scale=SCALES, shift=SHIFTS, seed=st.integers(0, 100))
def test_angles_do_not_see_a_similarity_transform(scale, shift, seed):
    student, teacher = drawn(4, 6, 7)
    moved = np.float32(scale) * student @ rotation(seed, 7) + np.float32(shift)
    plain = value(rkd, student, teacher, **ANGLES)
    assert value(rkd, moved, teacher, **ANGLES) == pytest.approx(plain, rel=1e-3)


def test_of_a_larger_batch_it_compares_rows_drawn_by_the_seed():
    student, teacher = drawn(5, 20, 7)
    torch.manual_seed(3)
    found = value(rkd, student, teacher, rows=5)
    torch.manual_seed(3)
    drawn_rows = torch.randperm(20)[:5].numpy()
    assert found == pytest.approx(formula(student[drawn_rows], teacher[drawn_rows]), rel=1e-4)
    assert value(rkd, student, teacher, rows=5) != pytest.approx(found, rel=1e-3)


def test_two_items_at_one_place_have_a_sane_gradient():
    student, teacher = drawn(6, 6, 7)
    student[1] = student[0]
    assert gradient(rkd, student, teacher).abs().max() < 100


def test_a_batch_of_one_has_no_relations():
    assert value(rkd, *drawn(7, 1, 7)) == 0
