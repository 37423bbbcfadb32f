from __future__ import annotations

import numpy as np
import pytest

from kdeploy.data.rows import Joined, Rows

STORED = np.arange(60, dtype=np.uint8).reshape(10, 2, 3)
ORDER = np.array([7, 2, 2, 9])
KEYS = [
    1,
    -1,
    [0, 3],
    slice(1, 3),
    slice(None, None, 2),
    np.array([3, 0]),
    np.array([True, False] * 2),
]


@pytest.mark.parametrize(
    "key", [*KEYS, (slice(0, 2), 1), (np.array([3, 1]), 0, slice(1, 3))], ids=str
)
def test_indexes_as_the_copied_rows_do(key):
    result = Rows(STORED, ORDER)[key]
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, STORED[ORDER][key])


def test_describes_itself_as_an_array_does():
    rows, copied = Rows(STORED, ORDER), STORED[ORDER]
    for name in ("shape", "ndim", "dtype", "nbytes"):
        assert getattr(rows, name) == getattr(copied, name)
    assert len(rows) == len(copied)


def test_becomes_an_array_when_asked():
    np.testing.assert_array_equal(np.asarray(Rows(STORED, ORDER)), STORED[ORDER])
    assert np.asarray(Rows(STORED, ORDER), dtype=np.float32).dtype == np.float32


def test_reads_only_the_rows_that_are_indexed():
    class Recorder:
        shape, ndim, dtype = STORED.shape, STORED.ndim, STORED.dtype
        asked: list = []  # noqa: RUF012 - one instance

        def __getitem__(self, key):
            self.asked.append(key[0].tolist())
            return STORED[key]

    recorder = Recorder()
    Rows(recorder, ORDER)[1:3]
    assert recorder.asked == [[2, 2]]


@pytest.mark.parametrize(
    "key",
    [3, 9, -1, slice(2, 9), slice(None), np.array([9, 0, 4, 4]), (np.array([8, 1]), 0), (5, 1)],
    ids=str,
)
def test_joined_arrays_are_indexed_as_one(key):
    second = Rows(np.arange(15.0).reshape(5, 3), np.array([4, 0, 2, 1]))
    parts = (np.arange(18.0).reshape(6, 3), second)
    whole = np.concatenate([np.asarray(part) for part in parts])
    joined = Joined(parts)
    np.testing.assert_array_equal(joined[key], whole[key])
    assert (len(joined), joined.shape, joined.ndim) == (10, (10, 3), 2)
    assert (joined.dtype, joined.nbytes) == (whole.dtype, whole.nbytes)
    np.testing.assert_array_equal(np.asarray(joined), whole)
