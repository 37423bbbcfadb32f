from __future__ import annotations

import pytest

from kdeploy.bench.scenarios import offline
from kdeploy.bench.scenarios.offline import MemoryBudget, largest_batch


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 15])
def test_a_small_limit_is_found_exactly(limit):
    assert largest_batch(lambda size: size <= limit, start=1) == limit


@pytest.mark.parametrize("limit", [100, 1000, 12345])
def test_a_large_limit_is_found_within_a_sixteenth(limit):
    found = largest_batch(lambda size: size <= limit, start=1)
    assert limit * 15 / 16 <= found <= limit


def test_the_search_begins_with_the_batch_asked_for():
    asked = []

    def fits(size):
        asked.append(size)
        return size <= 12

    assert largest_batch(fits, start=3) == 12
    assert min(asked) == 3
    assert largest_batch(fits, start=13) is None


def test_the_search_ends_where_everything_fits():
    assert largest_batch(lambda size: True, start=1) == offline.LARGEST


class Model:
    """Takes memory and time in proportion to the batch, up to a size that it cannot run."""

    def __init__(self, *, item_bytes, item_seconds=0.0, breaks_at=10**9):
        self.peak, self.asked = 1000, []
        self._bytes, self._seconds, self._breaks_at = item_bytes, item_seconds, breaks_at

    def run(self, size):
        self.asked.append(size)
        if size >= self._breaks_at:
            raise MemoryError
        self.peak = max(self.peak, 1000 + self._bytes * size)
        return self._seconds * size


def _room(model, *, seconds=1.0, memory_bytes=10**9):
    return MemoryBudget(
        run=model.run, peak_bytes=lambda: model.peak, seconds=seconds, memory_bytes=memory_bytes
    )


def test_memory_is_foretold_and_never_exceeded():
    model = Model(item_bytes=10)
    found = largest_batch(_room(model, memory_bytes=2000).fits, start=1)
    assert 94 <= found <= 100
    assert model.peak <= 2000
    assert max(model.asked) <= 100


def test_a_batch_must_be_over_in_time():
    model = Model(item_bytes=0, item_seconds=0.01)
    assert 75 <= largest_batch(_room(model, seconds=0.805).fits, start=1) <= 80


def test_what_cannot_run_does_not_fit():
    model = Model(item_bytes=0, breaks_at=2)
    assert largest_batch(_room(model).fits, start=1) == 1
