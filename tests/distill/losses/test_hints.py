"""Hints against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.distill.losses.hints import hints


def test_is_the_mean_squared_error():
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(size=(4, 3, 5, 5)).astype(np.float32) for _ in range(2))
    found = hints(torch.from_numpy(student), torch.from_numpy(teacher), torch.zeros(4))
    assert found.item() == pytest.approx(((student - teacher) ** 2).mean(), rel=1e-5)


def test_is_zero_at_equal_features():
    features = torch.randn(4, 3, 5, 5)
    assert hints(features, features.clone(), torch.zeros(4)).item() == 0
