from __future__ import annotations

import json

import numpy as np
import pytest

from kdeploy.preprocessing import Preprocessing

IDS = Preprocessing(shape=(5,), classes=("a", "b"), dtype="int64", vocabulary=7)


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


def test_token_ids_stay_as_they_are():
    stored = np.array([[0, 6, 3, 2, 1]], np.int32)
    found = IDS.apply(stored)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, stored)


@pytest.mark.parametrize(
    "known",
    [IDS, Preprocessing(shape=(1, 2, 2), mean=(0.5,), resize="bilinear", classes=("a",))],
)
def test_survives_json(known):
    assert Preprocessing.from_dict(json.loads(json.dumps(known.to_dict()))) == known


def test_floats_are_written_as_before_there_were_tokens():
    fields = ["shape", "scale", "mean", "std", "resize", "classes"]
    assert list(Preprocessing(shape=(1, 2)).to_dict()) == fields
    assert list(IDS.to_dict()) == [*fields, "dtype", "vocabulary"]


def test_an_example_has_the_shape_and_holds_no_padding():
    assert IDS.example(3).dtype == np.int64
    np.testing.assert_array_equal(IDS.example(3), np.ones((3, 5)))
    np.testing.assert_array_equal(Preprocessing(shape=(2, 4)).example(1), np.zeros((1, 2, 4)))


def test_random_ids_are_all_of_the_vocabulary():
    found = IDS.random(200, np.random.default_rng(0))
    assert found.dtype == np.int64
    assert set(np.unique(found)) == set(range(7))


def test_random_floats_are_standard_normal():
    found = Preprocessing(shape=(3, 50)).random(20, np.random.default_rng(0))
    assert found.dtype == np.float32
    assert abs(found.mean()) < 0.1
    assert abs(found.std() - 1) < 0.1


def test_answers_of_a_large_vocabulary_are_asked_for_a_few_items_at_once():
    text = Preprocessing(shape=(512,), dtype="int64", vocabulary=49152)
    assert [text.at_once(most) for most in (1, 64, 256)] == [1, 2, 2]
    small = Preprocessing(shape=(64,), dtype="int64", vocabulary=96)
    assert small.at_once(256) == 256
    assert Preprocessing(shape=(3, 224, 224)).at_once(256) == 256
    huge = Preprocessing(shape=(8192,), dtype="int64", vocabulary=128_000)
    assert huge.at_once(64) == 1
