from __future__ import annotations

import numpy as np

from kdeploy.metrics.agreement_decisions import agreement_decisions


def test_counts_labels_that_both_models_name_or_do_not():
    student = np.array([[0.9, 0.1, 0.5], [0.2, 0.7, 0.4]])
    teacher = np.array([[0.6, 0.8, 0.9], [0.1, 0.9, 0.49]])
    assert agreement_decisions(student, teacher) == 5 / 6
    assert agreement_decisions(teacher, teacher) == 1
