from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from kdeploy.metrics.f1_macro import f1_macro


def test_equals_scikit_learn():
    rng = np.random.default_rng(0)
    predicted, expected = rng.integers(0, 7, 500), rng.integers(0, 5, 500)
    reference = f1_score(expected, predicted, average="macro", zero_division=0.0)
    assert f1_macro(predicted, expected) == pytest.approx(reference)


def test_a_class_that_nobody_names_does_not_count():
    assert f1_macro(np.array([0, 2, 2]), np.array([0, 2, 2])) == 1.0
