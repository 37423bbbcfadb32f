"""Scenario `offline`: everything is there at once, so the largest batch that fits is run.

A batch fits when it runs, the process stays within the memory allowed, and it is over within the
time allowed. The search doubles until a batch does not fit and then halves the gap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

PRECISION = 16  # the gap that is left: a sixteenth of what fits
LARGEST = 2**20  # items; the search ends there


def largest_batch(fits: Callable[[int], bool], *, start: int) -> int | None:
    """Return the largest batch that fits, `start` or above; None when not even that does."""
    if not fits(start):
        return None
    low, high = start, 2 * start
    while fits(high):
        low, high = high, 2 * high
        if low >= LARGEST:
            return low
    while high - low > max(1, low // PRECISION):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@dataclass(slots=True, kw_only=True)
class MemoryBudget:
    """What a batch must fit in. Memory is foretold, so that the search does not run out of it."""

    run: Callable[[int], float]
    """Runs a batch of so many items and returns its seconds; raises when it cannot."""
    peak_bytes: Callable[[], int]
    """Returns the most that the process ever held."""
    seconds: float
    memory_bytes: int
    _resting_bytes: int = field(init=False)
    _item_bytes: float = 0.0

    def __post_init__(self) -> None:
        self._resting_bytes = self.peak_bytes()

    def fits(self, size: int) -> bool:
        """Return whether a batch of so many items fits."""
        if self._resting_bytes + size * self._item_bytes > self.memory_bytes:
            return False
        try:
            seconds = self.run(size)
        except Exception:  # no memory, on the machine or the device, or a fixed batch size
            return False
        peak_bytes = self.peak_bytes()
        # The largest growth seen: allocators take memory in steps, so a small batch may tell too
        # little.
        self._item_bytes = max(self._item_bytes, (peak_bytes - self._resting_bytes) / size)
        return seconds <= self.seconds and peak_bytes <= self.memory_bytes
