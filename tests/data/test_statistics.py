from __future__ import annotations

import numpy as np

from kdeploy.data import rows
from kdeploy.data.statistics import channel_statistics


def test_equals_the_mean_and_std_of_each_channel(monkeypatch):
    monkeypatch.setattr(rows, "ITEMS_AT_ONCE", 7)
    x = np.random.default_rng(0).integers(0, 256, (25, 3, 4, 5), dtype=np.uint8)
    mean, std = channel_statistics(x)
    np.testing.assert_allclose(mean, (x / 255).mean(axis=(0, 2, 3)), atol=5e-5)
    np.testing.assert_allclose(std, (x / 255).std(axis=(0, 2, 3)), atol=5e-5)


def test_a_constant_channel_has_std_one():
    assert channel_statistics(np.full((3, 1, 2, 2), 51, dtype=np.uint8)) == ((0.2,), (1.0,))
