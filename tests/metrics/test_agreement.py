from __future__ import annotations

import numpy as np

from kdeploy.metrics.agreement import agreement


def test_counts_items_of_the_same_class_in_both_models():
    student, teacher = np.array([3, 1, 0, 0]), np.array([3, 2, 0, 1])
    assert agreement(student, teacher) == 0.5
    assert agreement(teacher, student) == 0.5
