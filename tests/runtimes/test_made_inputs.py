from __future__ import annotations

import numpy as np
import pytest

from kdeploy.errors import ModelError
from kdeploy.runtimes.made_inputs import made_inputs
from kdeploy.tensor_info import TensorInfo


def made(name, *shape, dtype="float32", count=500):
    info = TensorInfo(name=name, shape=shape, dtype=dtype)
    return made_inputs([info], count, np.random.default_rng(0))[name]


def test_fractions_are_normal_numbers_of_the_type():
    found = made("x", "batch", 3, dtype="float16")
    assert (found.shape, found.dtype) == ((500, 3), np.float16)
    assert abs(found.std() - 1) < 0.1


@pytest.mark.parametrize(("dtype", "values"), [("int64", 2), ("int32", 2), ("uint8", 256)])
def test_whole_numbers_are_in_a_range_that_any_file_knows(dtype, values):
    found = made("ids", "batch", 30, dtype=dtype)
    assert found.dtype == dtype
    assert set(np.unique(found)) == set(range(values))


def test_a_sampling_rate_is_that_of_speech_and_a_mask_lets_all_through():
    assert made("sr", dtype="int64") == 16_000
    assert made("mask", 1, 4, dtype="bool").all()


def test_the_batch_is_one_where_it_is_no_row():
    assert made("state", 2, "batch", 8).shape == (2, 1, 8)


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [(("batch", "width"), "float32", "sizes open"), ((1,), "object", "no numbers")],
)
def test_what_cannot_be_made_up_is_told(shape, dtype, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        made("x", *shape, dtype=dtype)
    assert caught.value.hint
