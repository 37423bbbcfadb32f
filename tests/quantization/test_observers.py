from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.quantization.number_format import UINT8
from kdeploy.quantization.observers import CHOICES, NUM_BINS, Statistics, min_max, mse


def watched(*batches):
    statistics = Statistics()
    for batch in batches:
        statistics.see(torch.as_tensor(batch))
    return statistics


def test_min_max_covers_all_batches_and_zero():
    assert min_max(watched([1.0, 2.0], [0.5, 3.0])) == (0.0, 3.0)
    assert min_max(watched([-1.0, 2.0], [-4.0, -3.0])) == (-4.0, 2.0)


def test_the_histogram_counts_every_value_once_while_its_range_grows():
    rng = np.random.default_rng(0)
    batches = [rng.normal(0, scale, 1000).astype(np.float32) for scale in (0.1, 3, 0.2, 50)]
    statistics = watched(*batches)
    assert statistics.counts.sum() == 4000
    values = np.concatenate(batches)
    edges = np.linspace(-statistics.bound, statistics.bound, NUM_BINS + 1)
    expected, _ = np.histogram(values, edges)
    # torch and numpy may put a value on the edge of a bin to either side.
    assert np.abs(np.cumsum(expected - statistics.counts)).max() <= 2


def test_extremes_are_exact_where_the_histogram_is_thinned():
    values = torch.zeros(2**21 + 3)
    values[-2] = 7.0
    assert min_max(watched(values)) == (0.0, 7.0)


def error(values, low, high):
    scale, zero_point = UINT8.scale_and_zero_point(low, high)
    return np.mean((UINT8.quantize(values, scale, zero_point) - values) ** 2)


@pytest.mark.parametrize("is_signed", [True, False])
def test_mse_clips_a_heavy_tail_and_errs_least(is_signed):
    rng = np.random.default_rng(0)
    values = rng.standard_t(3, 100_000).astype(np.float32)
    values = values if is_signed else np.abs(values)
    statistics = watched(values)
    (low, high), (all_low, all_high) = mse(statistics), min_max(statistics)
    assert high < all_high
    assert (low > all_low) if is_signed else (low == 0)
    assert error(values, low, high) < 0.95 * error(values, all_low, all_high)
    # No better range on a grid of its own, computed on the values and not on the histogram.
    grid = np.linspace(0.05, 1, 40)
    best = min(
        error(values, a * all_low, b * all_high)
        for a in (grid if is_signed else [0.0])
        for b in grid
    )
    assert error(values, low, high) < 1.05 * best


def test_mse_keeps_a_uniform_range_whole():
    low, high = mse(watched(torch.linspace(-1, 1, 10_001)))
    assert (low, high) == (pytest.approx(-1, abs=0.03), pytest.approx(1, abs=0.03))


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_a_tensor_of_zeros_has_an_empty_range(choose):
    assert choose(watched(torch.zeros(8))) == (0.0, 0.0)


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_ranges_do_not_depend_on_the_order_of_values(choose):
    values = torch.randn(4096)
    shuffled = values[torch.randperm(4096)]
    assert choose(watched(values)) == choose(watched(shuffled))
