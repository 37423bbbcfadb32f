"""Axes of plots: where a value stands, in percent of the drawing area, and the grid's lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A line of the grid: where, and its text."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """From the lowest value to the highest, linear or logarithmic."""

    low: float
    high: float
    is_log: bool

    def at(self, value: float) -> float:
        """Return where a value stands, 0 at the low end and 100 at the high one."""
        low, high, here = (
            (math.log(v) if self.is_log else v) for v in (self.low, self.high, value)
        )
        return round(100 * (here - low) / (high - low), 3)

    def ticks(self, text: Callable[[float], str]) -> tuple[Tick, ...]:
        """Return the lines of the grid, at round values."""
        values = _of_log(self) if self.is_log else _of_linear(self)
        return tuple(Tick(at=self.at(value), text=text(value)) for value in values)


def log_axis(ends: Sequence[float]) -> Axis:
    """Return a logarithmic axis that holds all values, which are above 0."""
    low, high = min(ends), max(ends)
    # At least a factor of three, so that small differences look small.
    spread = max((high / low) ** 0.09, math.sqrt(3.0 * low / high))
    return Axis(low=low / spread, high=high * spread, is_log=True)


def linear_axis(ends: Sequence[float], *, least: float, margin: float) -> Axis:
    """Return a linear axis that holds all values.

    Args:
        ends: The values.
        least: How far the axis reaches at least, so that small differences look small.
        margin: Beyond the values on either side, at least.
    """
    low, high = min(ends), max(ends)
    beyond = max(0.12 * (high - low), (least - (high - low)) / 2, margin)
    return Axis(low=low - beyond, high=high + beyond, is_log=False)


def _of_log(axis: Axis) -> list[float]:
    """Return round multiples of the powers of ten, fewer where they would crowd."""
    decades = math.log10(axis.high / axis.low)
    grids = {1.0: (1, 1.5, 2, 3, 5, 7), 2.2: (1, 2, 5), 3.5: (1, 3), math.inf: (1,)}
    steps = next(steps for widest, steps in grids.items() if decades < widest)
    powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return [tick for tick in ticks if axis.low <= tick <= axis.high]


def _of_linear(axis: Axis) -> list[float]:
    rough = (axis.high - axis.low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    # 1e-9: a bound that lies on a tick may miss it by a last digit.
    first = math.ceil(axis.low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(axis.high / step + 1e-9) + 1)]
