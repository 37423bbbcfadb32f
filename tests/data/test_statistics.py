from __future__ import annotations

import numpy as np
import pytest

from kdeploy.data import rows
from kdeploy.data.statistics import channel_statistics, normalized_by
from kdeploy.preprocessing import Preprocessing


def test_equals_the_mean_and_std_of_each_channel(monkeypatch):
    monkeypatch.setattr(rows, "ITEMS_AT_ONCE", 7)
    x = np.random.default_rng(0).integers(0, 256, (25, 3, 4, 5), dtype=np.uint8)
    mean, std = channel_statistics(x)
    np.testing.assert_allclose(mean, (x / 255).mean(axis=(0, 2, 3)), atol=5e-5)
    np.testing.assert_allclose(std, (x / 255).std(axis=(0, 2, 3)), atol=5e-5)


def test_a_constant_channel_has_std_one():
    assert channel_statistics(np.full((3, 1, 2, 2), 51, dtype=np.uint8)) == ((0.2,), (1.0,))


def test_floats_get_the_mean_and_std_of_each_channel(monkeypatch):
    monkeypatch.setattr(rows, "ITEMS_AT_ONCE", 7)
    x = np.random.default_rng(0).normal([[[3.0], [-1.0]]], 2.0, (1, 25, 2, 40))[0]
    x = x.astype(np.float32)
    found = normalized_by(x, Preprocessing(shape=(2, 40), scale=0.5))
    np.testing.assert_allclose(found.mean, 0.5 * x.mean(axis=(0, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.std, 0.5 * x.std(axis=(0, 2)), rtol=1e-5)
    assert abs(found.apply(x).mean()) < 1e-5


def test_bytes_are_measured_in_the_scale_that_their_data_have():
    x = np.random.default_rng(0).integers(0, 256, (25, 1, 4, 4), dtype=np.uint8)
    for scale in (1 / 255, 1.0):
        found = normalized_by(x, Preprocessing(shape=(1, 4, 4), scale=scale))
        seen = found.apply(x)
        np.testing.assert_allclose((seen.mean(), seen.std()), (0, 1), atol=1e-3)


@pytest.mark.parametrize(
    "known",
    [
        Preprocessing(shape=(1, 4), mean=(0.5,)),
        Preprocessing(shape=(1, 4), std=(2.0,)),
        Preprocessing(shape=(4,), dtype="int64", vocabulary=9),
    ],
)
def test_what_is_normalised_already_is_left_alone(known):
    x = np.random.default_rng(0).integers(0, 9, (25, 1, 4)).astype(np.float32)
    assert normalized_by(x, known) is known


def test_items_that_are_stored_normalised_are_left_alone():
    x = np.random.default_rng(0).standard_normal((400, 1, 40)).astype(np.float32)
    plain = Preprocessing(shape=(1, 40))
    assert normalized_by(x, plain) is plain
    assert normalized_by(x + 1, plain) is not plain
