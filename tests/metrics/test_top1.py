from __future__ import annotations

import numpy as np
from sklearn.metrics import accuracy_score

from kdeploy.metrics.top1 import top1


def test_counts_equal_classes():
    assert top1(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])) == 0.75


def test_equals_scikit_learn():
    rng = np.random.default_rng(0)
    predicted, expected = rng.integers(0, 4, 333), rng.integers(0, 4, 333)
    assert top1(predicted, expected) == accuracy_score(expected, predicted)
