"""Average precision against its definition, written out."""

from __future__ import annotations

import numpy as np
import pytest

from kdeploy.errors import DataError
from kdeploy.metrics.average_precision import average_precision
from kdeploy.tasks.decoding.detection import overlaps

RECALLS = np.linspace(0, 1, 101)
OVERLAPS = np.arange(0.5, 1, 0.05)


def drawn(seed, images=12, objects=4, classes=3):
    random = np.random.default_rng(seed)
    low = random.uniform(0, 40, (images, objects, 2))
    truth = np.concatenate(
        [
            low,
            low + random.uniform(8, 20, low.shape),
            random.integers(0, classes, (*low.shape[:2], 1)),
        ],
        axis=2,
    ).astype(np.float32)
    found = np.concatenate([truth, random.uniform(0, 1, (*truth.shape[:2], 1))], 2)
    found[..., :4] += random.normal(0, 1.5, found[..., :4].shape)
    stray = found[:, :2] + [30, 0, 30, 0, 0, 0]
    stray[..., 5] = random.uniform(0, 0.6, stray.shape[:2])
    found = np.concatenate([found, stray], axis=1).astype(np.float32)
    found[random.uniform(size=found.shape[:2]) < 0.2, 4] = -1
    truth[random.uniform(size=truth.shape[:2]) < 0.1, 4] = -1
    return found, truth


def definition(found, truth, thresholds):
    values = []
    for label in np.unique(truth[truth[..., 4] >= 0][:, 4]):
        for threshold in thresholds:
            hits, scores, total = [], [], 0
            for own, true in zip(found, truth, strict=True):
                own = own[own[:, 4] == label]
                own = own[np.argsort(-own[:, 5], kind="stable")]
                true = true[true[:, 4] == label]
                total += len(true)
                shared = overlaps(own[:, :4], true[:, :4])
                taken = set()
                for row in range(len(own)):
                    free = [g for g in range(len(true)) if g not in taken]
                    best = max(free, key=lambda g: shared[row, g], default=None)
                    is_hit = best is not None and shared[row, best] >= threshold
                    taken |= {best} if is_hit else set()
                    hits.append(is_hit)
                    scores.append(own[row, 5])
            order = np.argsort(-np.array(scores), kind="stable")
            hit = np.array(hits)[order].cumsum()
            precision = hit / np.arange(1, len(hit) + 1)
            at = [precision[hit / total >= r].max(initial=0) for r in RECALLS]
            values.append(np.mean(at))
    return np.mean(values)


@pytest.mark.parametrize("seed", range(3))
def test_is_its_definition(seed):
    found, truth = drawn(seed)
    for which, thresholds in (("map", OVERLAPS), ("map50", [0.5])):
        expected = definition(found, truth, thresholds)
        assert average_precision(found, truth, which=which) == pytest.approx(expected, abs=1e-6)
        assert 0.1 < expected < 0.95


def test_does_not_depend_on_the_order_of_images():
    found, truth = drawn(5)
    order = np.random.default_rng(0).permutation(len(found))
    shuffled = average_precision(found[order], truth[order], which="map")
    assert shuffled == pytest.approx(average_precision(found, truth, which="map"), abs=1e-9)


def test_what_is_found_in_a_crowd_is_no_mistake():
    truth = np.array([[[0, 0, 10, 10, 0], [20, 0, 60, 40, -2]]], np.float32)
    found = np.array([[[0, 0, 10, 10, 0, 0.5], [25, 5, 35, 15, 0, 0.9]]], np.float32)
    assert average_precision(found, truth, which="map") == pytest.approx(1)
    truth[0, 1, 4] = -1
    assert average_precision(found, truth, which="map") == pytest.approx(0.5, abs=0.01)


def test_nothing_found_is_zero_and_nothing_to_find_an_error(capsys):
    found, truth = drawn(6)
    nothing = found.copy()
    nothing[..., 4] = -1
    assert average_precision(nothing, truth, which="map") == 0
    truth[..., 4] = -1
    with pytest.raises(DataError, match="no object to find"):
        average_precision(found, truth, which="map")
    with pytest.raises(DataError, match="cannot compare"):
        average_precision(found[:2], truth, which="map")
    assert capsys.readouterr().out == "", "what pycocotools prints is kept"
