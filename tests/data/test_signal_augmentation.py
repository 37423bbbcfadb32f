from __future__ import annotations

import torch

from kdeploy.data.augmentation import augmenter
from kdeploy.data.signal_augmentation import JITTER_STD, SCALING_STD

SHAPE = (2, 50)


def batch(count=400):
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([1.0, 100.0])[:, None]
    return 7 + scales * torch.randn(count, *SHAPE, generator=generator)


def test_jitter_is_noise_in_proportion_to_the_channel():
    x = batch()
    noise = augmenter(["jitter"], SHAPE)(x) - x
    relative = noise / x.std(dim=-1, correction=0, keepdim=True)
    for channel in (0, 1):
        assert abs(relative[:, channel].std() / JITTER_STD - 1) < 0.03
        assert abs(relative[:, channel].mean()) < 0.1 * JITTER_STD


def test_scaling_multiplies_the_deviations_of_a_channel_by_one_factor():
    x = batch()
    result = augmenter(["scaling"], SHAPE)(x)
    means = [part.mean(dim=-1, keepdim=True) for part in (x, result)]
    assert torch.allclose(*means, atol=1e-3)
    factors = (result - means[1]).norm(dim=-1) / (x - means[0]).norm(dim=-1)
    expected = means[0] + (x - means[0]) * factors[..., None]
    assert torch.allclose(result, expected, atol=1e-2)
    assert abs(factors.std() / SCALING_STD - 1) < 0.1
    assert abs(factors.mean() - 1) < 0.02


def test_time_shift_moves_all_channels_together_and_repeats_the_edge():
    times = torch.arange(50.0)
    x = torch.stack([times, 1000 + times]).repeat(300, 1, 1)
    result = augmenter(["time_shift"], SHAPE)(x)
    shifts = {int(series[0, 25]) - 25 for series in result}
    assert shifts == set(range(-5, 6))
    for series in result:
        expected = (times + float(series[0, 25]) - 25).clamp(0, 49)
        assert torch.equal(series, torch.stack([expected, 1000 + expected]))


def test_even_the_shortest_series_is_shifted():
    x = torch.arange(4.0).expand(50, 1, 4).clone()
    assert not torch.equal(augmenter(["time_shift"], (1, 4))(x), x)
