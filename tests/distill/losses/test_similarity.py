"""SP against numpy, and what it must not see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdeploy.distill.losses.similarity import similarity
from tests.distill.formulas import drawn, rotation, unit, value


def formula(student, teacher):
    grams = [f.reshape(len(f), -1).astype(np.float64) for f in (student, teacher)]
    own, other = (unit(g @ g.T) for g in grams)
    return np.linalg.norm(own - other, "fro") ** 2 / len(student) ** 2


def test_is_the_formula_also_for_other_shapes():
    student, teacher = drawn(0, 6, 4, 5, 5)[0], drawn(1, 6, 7, 3, 3)[1]
    assert value(similarity, student, teacher) == pytest.approx(formula(student, teacher), rel=1e-4)


@given(seeds=st.tuples(st.integers(0, 100), st.integers(0, 100)), scale=st.floats(0.1, 10))
def test_does_not_see_orthogonal_maps_of_vectors_and_scale(seeds, scale):
    student, teacher = drawn(2, 6, 7)
    turned = np.float32(scale) * student @ rotation(seeds[0], 7), teacher @ rotation(seeds[1], 7)
    plain = value(similarity, student, teacher)
    assert value(similarity, *turned) == pytest.approx(plain, rel=1e-3)
