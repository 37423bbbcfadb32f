from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.quantization.number_format import UINT8
from kdeploy.quantization.observers import (
    NUM_BINS,
    RANGE_ESTIMATORS,
    Statistics,
    _errors,
    _running_sums,
    min_max,
    moving_average,
    mse,
    percentile,
)


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
    statistics = watched(*np.array_split(values, 4))
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


@pytest.mark.parametrize("choose", RANGE_ESTIMATORS.values(), ids=RANGE_ESTIMATORS)
def test_a_tensor_of_zeros_has_an_empty_range(choose):
    assert choose(watched(torch.zeros(8))) == (0.0, 0.0)


@pytest.mark.parametrize("choose", RANGE_ESTIMATORS.values(), ids=RANGE_ESTIMATORS)
def test_ranges_do_not_depend_on_the_order_of_values(choose):
    values = torch.randn(4096)
    shuffled = values[torch.randperm(4096)]
    assert choose(watched(values)) == choose(watched(shuffled))


def test_the_moving_average_is_the_recurrence():
    rng = np.random.default_rng(0)
    batches = [rng.normal(0, s, 64).astype(np.float32) for s in (1, 5, 0.1, 2)]
    low, high = float(batches[0].min()), float(batches[0].max())
    for batch in batches[1:]:
        low = 0.99 * low + 0.01 * batch.min()
        high = 0.99 * high + 0.01 * batch.max()
    assert moving_average(watched(*batches)) == pytest.approx((low, high), rel=1e-6)


@pytest.mark.parametrize("percent", [99.0, 99.99])
@pytest.mark.parametrize("is_signed", [True, False])
def test_percentiles_agree_with_numpy_to_a_bin(percent, is_signed):
    values = np.random.default_rng(0).normal(0, 1, 100_000).astype(np.float32)
    values = values if is_signed else np.maximum(values, 0)
    outside = 100 - percent
    if is_signed:
        expected = np.percentile(values, [outside / 2, 100 - outside / 2])
    else:
        expected = [0.0, np.percentile(values, percent)]
    statistics = watched(*np.array_split(values, 4))
    width = 2 * statistics.bound / NUM_BINS
    found = percentile(statistics, percent=percent)
    # Between two values of a thin tail numpy interpolates.
    np.testing.assert_allclose(found, expected, atol=width + (0.02 if percent > 99 else 0))


def test_a_percentile_of_all_values_is_the_whole_range():
    values = torch.randn(1000)
    assert percentile(watched(values), percent=100) == min_max(watched(values))


@pytest.mark.parametrize("choice", ["percentile", "entropy"])
@pytest.mark.parametrize("is_signed", [True, False])
def test_clipping_a_few_far_values_helps_all_others(choice, is_signed):
    values = np.random.default_rng(0).normal(0, 1, 200_000).astype(np.float32)
    values[:4] = 40.0
    if is_signed:
        values[4:8] = -40.0
    else:
        values = np.abs(values)
    statistics = watched(values)
    others = values[8:]
    clipped, whole = RANGE_ESTIMATORS[choice](statistics), min_max(statistics)
    assert error(others, *clipped) < 0.25 * error(others, *whole)


def test_the_errors_that_mse_compares_are_those_of_the_bins():
    statistics = watched(torch.randn(5000))
    lows, highs = np.array([-1.0, -0.3, 0.0]), np.array([2.0, 0.7, 1.1])
    width = 2 * statistics.bound / NUM_BINS
    found = _errors(_running_sums(statistics), -statistics.bound, width, lows, highs)
    for low, high, value in zip(lows, highs, found, strict=True):
        scale = (high - low) / 255
        zero_point = np.rint(-low / scale)
        codes = np.clip(np.rint(statistics.centres / scale) + zero_point, 0, 255) - zero_point
        expected = ((codes * scale - statistics.centres) ** 2) @ statistics.counts
        assert value == pytest.approx(expected, rel=1e-6)


def test_thinning_meets_every_column():
    values = torch.arange(64.0).repeat(2**13)
    statistics = watched(values)
    assert 2**14 < statistics.counts.sum() <= 2**15
    seen = np.flatnonzero(statistics.counts)
    assert len(seen) == 64


def test_pieces_of_a_batch_have_the_extremes_of_the_batch():
    values = torch.randn(6, 50)
    whole, pieces = Statistics(), Statistics()
    for batch in (values[:3], values[3:]):
        whole.see(batch)
        for row in batch:
            pieces.see(row)
        pieces.join(3)
    assert pieces.extremes == whole.extremes
    Statistics().join(3)


def test_the_layout_in_memory_does_not_matter():
    values = torch.randn(2, 5, 4, 3)
    plain, turned = Statistics(), Statistics()
    plain.see(values)
    turned.see(values.contiguous(memory_format=torch.channels_last))
    assert plain.extremes == turned.extremes
    assert (plain.counts == turned.counts).all()
