"""Seeded noise as data, for suites that measure speed and kernels and never accuracy."""

from __future__ import annotations

import numpy as np

from kdeploy.data.contract import Dataset, Preprocessing, Split


def noise(shape: tuple[int, ...], count: int) -> Dataset:
    """Return seeded noise: enough where only speed and kernels are asked for."""
    x = np.random.default_rng(0).standard_normal((count, *shape), dtype=np.float32)
    part = Split(x=x, y=np.zeros(count, np.int64))
    return Dataset(
        name="noise",
        train=part,
        validation=part,
        test=part,
        preprocessing=Preprocessing(shape=shape),
        fingerprint="noise",
    )
