from __future__ import annotations

import json

import numpy as np
import pytest

from kdeploy.data.contract import Preprocessing


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 7)])
def test_apply_scales_then_normalises_each_channel(shape):
    preprocessing = Preprocessing(
        shape=shape, scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0), classes=("a", "b")
    )
    stored = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    result = preprocessing.apply(stored)
    assert result.dtype == np.float32
    for channel, (mean, std) in enumerate(zip((0.1, 0.2, 0.3), (0.5, 0.25, 2.0), strict=True)):
        expected = (stored[:, channel] / 255 - mean) / std
        np.testing.assert_allclose(result[:, channel], expected, rtol=1e-5, atol=1e-6)


def test_survives_json():
    preprocessing = Preprocessing(shape=(1, 2, 2), mean=(0.5,), resize="bilinear", classes=("a",))
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing
