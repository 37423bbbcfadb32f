"""The learning rate of a training, found by looking: it rises, and the loss says how far it may.

Smith, WACV 2017, arXiv:1506.01186, section 3.3. A few steps are made, each at a higher rate than
the one before, until the loss rises; the weights are then what they were. What is read off is
noisy, so it moves the usual rate of the optimizer by a bounded factor and does not replace it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SHARE = 0.04
"""Of all steps of the training, that the test may take."""
MOST_STEPS = 100
FEWEST_STEPS = 16
"""With fewer the curve says nothing; then the usual rate is taken."""
BELOW, ABOVE = 1e-2, 30.0
"""Where the rise begins and ends, in usual rates."""
SMOOTHING = 0.7
"""Of the exponential average of losses that the curve is read off."""
RISEN = 1.3
"""The test ends where the smoothed loss is this many times the lowest."""
FROM_LOWEST = 10.0
"""The rate of the lowest smoothed loss is this many times too high to train with."""
LEAST_FACTOR, MOST_FACTOR = 0.5, 1.5
"""By which the usual rate is moved at most: so short a curve tells too high a rate from a good one
better than a good one from a better one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateFound:
    """What a test came to."""

    rate: float
    steps: int
    """Made for it; 0: there were too few to spare."""
    lowest_at: float | None = None
    """The rate at which the smoothed loss was lowest."""

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the fields as JSON has them."""
        return {"rate": self.rate, "steps": self.steps, "lowest_at": self.lowest_at}


def steps_of_test(total: int) -> int:
    """Return how many steps of a test a training of `total` steps may have; 0: none."""
    steps = min(int(SHARE * total), MOST_STEPS)
    return steps if steps >= FEWEST_STEPS else 0


def found_rate(usual: float, total: int, step: Callable[[int, float], float]) -> RateFound:
    """Return the rate for a training.

    Args:
        usual: Where nothing is known but the optimizer.
        total: Steps of the training.
        step: Makes the step of a number, from 0, at a rate, and returns its loss.
    """
    steps = steps_of_test(total)
    if not steps:
        return RateFound(rate=usual, steps=0)
    rates = rising_rates(usual, steps)
    losses: list[float] = []
    for number, rate in enumerate(rates):
        losses.append(step(number, rate))
        curve = smoothed(losses)
        if not math.isfinite(losses[-1]) or curve[-1] > RISEN * min(curve) + 1e-12:
            break
    lowest_at = rate_of_lowest(rates, losses)
    factor = lowest_at / FROM_LOWEST / usual
    rate = usual * min(max(factor, LEAST_FACTOR), MOST_FACTOR)
    return RateFound(rate=_two_digits(rate), steps=len(losses), lowest_at=_two_digits(lowest_at))


def rising_rates(usual: float, steps: int) -> list[float]:
    """Return the rates of a test, each the same factor above the one before."""
    span = math.log(ABOVE / BELOW)
    return [usual * BELOW * math.exp(span * i / (steps - 1)) for i in range(steps)]


def rate_of_lowest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate at which the smoothed loss, of the finite ones, was lowest."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return rates[0]
    curve = smoothed(finite)
    return rates[curve.index(min(curve))]


def smoothed(losses: Sequence[float]) -> list[float]:
    """Return the exponential averages of the losses, each of as much weight as it has seen."""
    curve, total, weight = list[float](), 0.0, 0.0
    for loss in losses:
        total = SMOOTHING * total + (1 - SMOOTHING) * loss
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        curve.append(total / weight)
    return curve


def _two_digits(rate: float) -> float:
    # What differs in the third digit is noise, and a rate that people can read is one they can set.
    return float(f"{rate:.2g}")
