"""The rank under noise: of synthetic matrices, and against the optimum found by brute force."""

import math

import numpy as np
import pytest

from kdeploy.low_rank.vbmf import _edge, vbmf_rank


def noisy(shape, rank, *, noise=1.0, strength=3.0, seed=0):
    """Return a matrix of this rank whose singular values stand out, plus white noise."""
    numbers = np.random.default_rng(seed)
    few, many = min(shape), max(shape)
    left, _ = np.linalg.qr(numbers.normal(size=(shape[0], max(rank, 1))))
    right, _ = np.linalg.qr(numbers.normal(size=(shape[1], max(rank, 1))))
    size = strength * noise * (math.sqrt(few) + math.sqrt(many)) * (rank > 0)
    return size * left @ right.T + noise * numbers.normal(size=shape)


def rank_of(matrix):
    return vbmf_rank(np.linalg.svd(matrix, compute_uv=False), matrix.shape)


@pytest.mark.parametrize("noise", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(60, 60), (40, 120), (120, 40)])
@pytest.mark.parametrize("rank", [0, 1, 5, 12])
def test_the_rank_of_a_matrix_in_noise_is_found(rank, shape, noise):
    assert rank_of(noisy(shape, rank, noise=noise, seed=rank)) == rank


def test_what_is_weaker_than_the_noise_is_not_kept():
    assert rank_of(noisy((50, 80), 4, strength=0.5)) == 0


def test_without_noise_every_singular_value_counts():
    matrix = np.random.default_rng(0).normal(size=(20, 4)) @ np.ones((4, 30)) * 3
    assert rank_of(matrix) == 1
    assert rank_of(np.zeros((4, 6))) == 0
    assert rank_of(np.eye(4, 6) * 2) in range(5)


def test_the_threshold_is_near_its_approximation():
    # Nakajima et al.: the zero is about 2.5129 sqrt(ratio).
    for ratio in (0.05, 0.3, 1.0):
        tau = 2.5129 * math.sqrt(ratio)
        assert _edge(ratio) == pytest.approx((1 + tau) * (1 + ratio / tau), rel=0.02)
