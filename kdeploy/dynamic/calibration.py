"""When an early answer is final: temperatures, and the threshold that keeps a promise.

Learn then Test (Angelopoulos et al., arXiv:2110.01052), as Fast yet Safe (arXiv:2405.20915) has it
for early exits. An item is lost where the dynamic model is wrong and the full one, its last part,
is right (without labels: where they disagree). The promise: P(risk <= alpha) >= confidence, where
risk is the share of lost items among all items like those of the calibration. From the strictest
threshold to looser ones, p = P(Binomial(n, alpha) <= lost) is the exact p-value of "risk > alpha";
the last threshold before the first p above 1 - confidence is taken. The thresholds are fixed in
advance and tried in a fixed order, so that no correction for many tests is needed.

Thresholds that are read off the same items without a test break such a promise in half of all
draws. Temperatures are fitted on items of their own (Guo et al., arXiv:1706.04599), because the
test needs scores that do not depend on its items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.classes import classes_of, not_finite
from kdeploy.errors import ModelError
from kdeploy.units import format_quantity

Logits = NDArray[np.float32]
TEMPERATURE_SHARE = 0.2
"""Of the items; the rest chooses the threshold."""
MOST_TEMPERATURE_ITEMS = 1000  # one number a part needs no more
# Strict to loose: 0.99999 to 0.12, evenly in log-odds; above the first nothing would leave early.
GRID: NDArray[np.float64] = 1 / (1 + np.exp(-np.linspace(11.5, -2.0, 271)))
SHARE_CONFIDENCE = 0.99
"""Of the interval that the share of early answers is expected in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What an early answer may cost."""

    risk: float
    """Share of all items that are wrong because they left early, at most; a fraction."""
    confidence: float
    """Of the promise; a fraction."""

    @property
    def fewest_items(self) -> int:
        """Return how many items the test needs to pass even where none is lost."""
        return math.ceil(math.log(1 - self.confidence) / math.log(1 - self.risk))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The temperature of each part, the threshold of all but the last, and what was seen."""

    temperatures: tuple[float, ...]
    threshold: float
    found: dict[str, Any]


def fewest_validation_items(promise: Promise) -> int:
    """Return how many items there must be, those for the temperatures included."""
    tested = promise.fewest_items
    return tested + min(MOST_TEMPERATURE_ITEMS, math.ceil(tested / (1 / TEMPERATURE_SHARE - 1)))


def calibrate(
    logits: Sequence[Logits],
    labels: NDArray[np.int64] | None,
    promise: Promise,
    *,
    seed: int = 0,
) -> Calibration:
    """Choose temperatures and threshold.

    Args:
        logits: Of each part for all items, (items, classes), in the parts' order.
        labels: (items,); None: the last part's answers count as right.
        promise: What has to hold.
        seed: Of which items are for the temperatures.

    Raises:
        ModelError: there are too few items, answers that are no numbers, or no threshold that
            keeps the promise.
    """
    count = len(logits[0])
    check_count(count, promise)
    order = np.random.default_rng(seed).permutation(count)
    split = min(MOST_TEMPERATURE_ITEMS, int(count * TEMPERATURE_SHARE))
    fitted, tested = order[:split], order[split:]
    classes = [_classes_of_all(part) for part in logits]
    truth = classes[-1] if labels is None else labels
    temperatures = tuple(temperature_of(part[fitted], truth[fitted]) for part in logits)
    sure = [largest(part[tested], t) for part, t in zip(logits[:-1], temperatures, strict=False)]
    right = [found[tested] == truth[tested] for found in classes]
    by = np.stack([answered_by(sure, threshold) for threshold in GRID])
    lost = np.stack([~_right_of(right, rows) & right[-1] for rows in by]).sum(axis=1)
    place, p_value = _last_that_passes(lost, len(tested), promise)
    early = int((by[place] < len(logits) - 1).sum())
    if not early:
        raise _nothing_leaves(len(tested), promise)
    chosen = _right_of(right, by[place])
    found = {
        "method": "learn_then_test",
        "loss": "disagreement" if labels is None else "accuracy",
        "risk": promise.risk,
        "confidence": promise.confidence,
        "items": len(tested),
        "temperature_items": len(fitted),
        "lost_items": int(lost[place]),
        "p_value": p_value,
        "early_share": early / len(tested),
        "early_share_interval": list(share_interval(early, len(tested))),
        **(
            {}
            if labels is None
            else {"accuracy": float(chosen.mean()), "accuracy_of_last": float(right[-1].mean())}
        ),
    }
    return Calibration(temperatures=temperatures, threshold=float(GRID[place]), found=found)


def check_count(count: int, promise: Promise) -> None:
    """Refuse too few items.

    Raises:
        ModelError: not even a model that loses nothing could be proven with so many.
    """
    needed = fewest_validation_items(promise)
    if count < needed:
        raise ModelError(
            f"a risk of {format_quantity(promise.risk, 'fraction')} with confidence "
            f"{promise.confidence:g} needs {needed} validation items, and there are {count}",
            hint="allow a higher risk or less confidence, or hold out more: "
            "`data.validation_fraction`",
        )


def temperature_of(logits: Logits, labels: NDArray[np.int64]) -> float:
    """Return the T > 0 with the smallest negative log-likelihood of softmax(logits / T)."""
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    exact = logits.astype(np.float64)
    of_label = exact[np.arange(len(exact)), labels]

    def loss(log_t: float) -> float:
        scale = math.exp(-log_t)
        return float((logsumexp(exact * scale, axis=1) - of_label * scale).mean())

    best = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20.0)), method="bounded")
    return float(math.exp(best.x))


def largest(logits: Logits, temperature: float) -> NDArray[np.float64]:
    """Return the largest probability of each row."""
    apart = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64) / temperature
    return 1 / np.exp(apart).sum(axis=1)  # type: ignore[no-any-return]


def answered_by(sure: Sequence[NDArray[np.float64]], threshold: float) -> NDArray[np.int64]:
    """Return which part answers each item, by the scores of all parts but the last."""
    found = np.full(len(sure[0]), len(sure), np.int64)
    for number in reversed(range(len(sure))):
        found[sure[number] >= threshold] = number
    return found


def share_interval(count: int, total: int) -> tuple[float, float]:
    """Return the interval of a share, Clopper and Pearson 1934."""
    from scipy.stats import beta

    tail = (1 - SHARE_CONFIDENCE) / 2
    low = float(beta.ppf(tail, count, total - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - tail, count + 1, total - count)) if count < total else 1.0
    return low, high


def _classes_of_all(logits: Logits) -> NDArray[np.int64]:
    classes = classes_of(logits)
    if reason := not_finite(classes, what="validation items"):
        raise ModelError(
            f"a part of the dynamic model cannot say how sure it is: {reason}",
            hint="look at that item: an empty one, or a number beyond float16; mend the part",
        )
    return classes


def _right_of(right: Sequence[NDArray[np.bool_]], by: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.choose(by, list(right)).astype(bool)


def _last_that_passes(lost: NDArray[np.int64], count: int, promise: Promise) -> tuple[int, float]:
    """Return the place of the loosest threshold before the first failure, and its p-value."""
    from scipy.stats import binom

    p_values = binom.cdf(lost, count, promise.risk)
    failed = np.flatnonzero(p_values > 1 - promise.confidence)
    end = int(failed[0]) if len(failed) else len(lost)
    if not end:
        raise _nothing_leaves(count, promise)
    return end - 1, float(p_values[end - 1])


def _nothing_leaves(count: int, promise: Promise) -> ModelError:
    return ModelError(
        f"no threshold keeps a risk of {format_quantity(promise.risk, 'fraction')} with confidence "
        f"{promise.confidence:g} on {count} items: the first part is sure of what it gets wrong",
        hint="allow a higher risk, or begin with a better first part",
    )
