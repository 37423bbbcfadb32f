from __future__ import annotations

import numpy as np
import pytest

from kdeploy.errors import DataError
from kdeploy.metrics.divergence_next_token import divergence_next_token


def test_is_the_mean_of_the_tokens():
    assert divergence_next_token(np.array([0.0, 0.25, 0.5])) == 0.25


def test_of_the_teachers_own_answers_is_nothing():
    assert divergence_next_token(np.zeros(5)) == 0


@pytest.mark.parametrize("wrong", [np.zeros(0), np.zeros((3, 2)), np.array([0.1, np.inf])])
def test_refuses_what_is_not_a_finite_number_a_token(wrong):
    with pytest.raises(DataError) as caught:
        divergence_next_token(wrong)
    assert caught.value.hint
