"""The promise: computed as the binomial says, and kept where the naive threshold breaks it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import binom

from kdeploy.dynamic.calibration import (
    GRID,
    Promise,
    answered_by,
    calibrate,
    fewest_validation_items,
    largest,
    share_interval,
    temperature_of,
)
from kdeploy.errors import ModelError

PROMISE = Promise(risk=0.02, confidence=0.9)


def draw(count, seed):
    """Return logits of a weak and a strong classifier, and labels: both doubt what is hard."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    hard = rng.uniform(size=count)
    made = []
    for strength, noise in ((3.0, 1.5), (5.0, 0.6)):
        logits = rng.normal(size=(count, 4)) * noise
        logits[np.arange(count), labels] += strength * (1 - hard)
        made.append(logits.astype(np.float32))
    return made, labels


def lost_share(logits, labels, found, threshold):
    by = answered_by([largest(logits[0], found.temperatures[0])], threshold)
    right = [part.argmax(1) == labels for part in logits]
    return float(((by == 0) & ~right[0] & right[1]).mean())


def test_the_threshold_is_the_last_that_the_exact_test_passes():
    logits, labels = draw(1500, seed=0)
    found = calibrate(logits, labels, PROMISE, seed=0)
    tested = np.random.default_rng(0).permutation(1500)[300:]
    score = largest(logits[0][tested], found.temperatures[0])
    right = [part[tested].argmax(1) == labels[tested] for part in logits]
    passed = []
    for threshold in GRID:
        lost = sum((score >= threshold) & ~right[0] & right[1])
        if binom.cdf(lost, 1200, 0.02) > 0.1:
            break
        passed.append(threshold)
    assert found.threshold == pytest.approx(passed[-1])
    assert found.found["items"] == 1200
    assert found.found["p_value"] <= 0.1


def test_the_promise_is_kept_and_the_naive_threshold_breaks_it():
    far, far_labels = draw(20_000, seed=1000)
    broken = naive_broken = 0
    for seed in range(40):
        logits, labels = draw(500, seed)
        found = calibrate(logits, labels, PROMISE, seed=seed)
        broken += lost_share(far, far_labels, found, found.threshold) > PROMISE.risk
        seen = [lost_share(logits, labels, found, t) for t in GRID]
        naive = GRID[np.flatnonzero(np.array(seen) <= PROMISE.risk)[-1]]
        naive_broken += lost_share(far, far_labels, found, naive) > PROMISE.risk
    assert broken <= 8, "40 draws at 90 %: more than 8 have a chance of 2 %"
    assert naive_broken >= 12


def test_without_labels_the_full_model_is_the_truth():
    logits, _ = draw(800, seed=3)
    found = calibrate(logits, None, PROMISE)
    assert found.found["loss"] == "disagreement"
    assert "accuracy" not in found.found
    assert 0 < found.found["early_share"] < 1


def test_too_few_items_are_refused_and_counted():
    promise = Promise(risk=0.005, confidence=0.9)
    assert promise.fewest_items == math.ceil(math.log(0.1) / math.log(0.995)) == 460
    needed = fewest_validation_items(promise)
    assert needed == 460 + 115
    logits, labels = draw(needed - 1, seed=0)
    with pytest.raises(ModelError, match=f"needs {needed} validation items, and there are"):
        calibrate(logits, labels, promise)


def test_a_first_part_that_is_sure_and_wrong_is_refused():
    logits, labels = draw(288, seed=0)
    logits[0] = np.roll(logits[1], 1, axis=1)
    with pytest.raises(ModelError, match="no threshold keeps") as caught:
        calibrate(logits, labels, Promise(risk=0.01, confidence=0.9))
    assert "higher risk" in caught.value.hint


def test_three_parts_share_a_threshold():
    (weak, strong), labels = draw(900, seed=5)
    middle = ((weak + strong) / 2).astype(np.float32)
    found = calibrate([weak, middle, strong], labels, PROMISE)
    assert len(found.temperatures) == 3
    by = answered_by([np.array([0.9, 0.1, 0.1]), np.array([0.9, 0.9, 0.1])], 0.5)
    assert by.tolist() == [0, 1, 2]


def test_the_temperature_has_the_smallest_loss():
    logits, labels = draw(1000, seed=7)

    def loss(t):
        return -log_softmax(logits[0] / t, axis=1)[np.arange(1000), labels].mean()

    found = temperature_of(logits[0], labels)
    assert loss(found) <= min(loss(found * 1.02), loss(found / 1.02))


def test_the_interval_of_a_share_holds_the_share():
    low, high = share_interval(61, 100)
    assert low < 0.61 < high
    assert binom.cdf(61, 100, high) == pytest.approx(0.005, rel=1e-6)
    assert share_interval(0, 10)[0] == 0
    assert share_interval(10, 10)[1] == 1


@pytest.mark.parametrize("part", [0, 1])
def test_answers_that_are_no_numbers_are_refused_with_their_item(part):
    logits, labels = draw(2000, 0)
    logits[part][7] = np.nan
    for known in (labels, None):
        with pytest.raises(ModelError, match=r"1 of 2000 validation items .* 7\)"):
            calibrate(logits, known, PROMISE)
