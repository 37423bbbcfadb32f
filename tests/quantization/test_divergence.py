from __future__ import annotations

import numpy as np
import pytest

from kdeploy.quantization.divergence import divergence, least_divergent


def by_hand(counts, kept, num_levels):
    """Return the divergence, level by level, as the talk describes it."""
    p = counts[:kept].astype(float).copy()
    p[-1] += counts[kept:].sum()
    q = np.zeros(kept)
    for level in range(num_levels):
        bins = [b for b in range(kept) if b * num_levels // kept == level]
        filled = [b for b in bins if p[b] > 0]
        for b in filled:
            q[b] = counts[bins].sum() / len(filled)
    p, q = p / p.sum(), q / q.sum()
    return sum(a * np.log(a / max(b, 1e-12)) for a, b in zip(p, q, strict=True) if a > 0)


@pytest.mark.parametrize(("kept", "num_levels"), [(16, 16), (37, 16), (64, 16), (50, 7)])
def test_it_is_the_formula(kept, num_levels):
    counts = np.random.default_rng(0).integers(0, 9, 64).astype(float)
    assert divergence(counts, kept, num_levels) == pytest.approx(by_hand(counts, kept, num_levels))


def test_nothing_is_lost_where_each_bin_has_a_level():
    counts = np.arange(1.0, 17.0)
    assert divergence(counts, 16, 16) == pytest.approx(0.0)


def test_a_few_far_values_are_left_out():
    x = np.abs(np.random.default_rng(0).normal(0, 1, 200_000))
    counts, _ = np.histogram(np.append(x, [20.0] * 5), 4096, (0, 20))
    assert 3 < least_divergent(counts.astype(float), 128) / 4096 * 20 < 8


def test_flat_counts_are_kept_whole_and_few_bins_as_well():
    assert least_divergent(np.full(1024, 7.0), 128) > 0.99 * 1024
    assert least_divergent(np.append(np.ones(40), np.zeros(900)), 128) == 40
    assert least_divergent(np.zeros(900), 128) == 1
