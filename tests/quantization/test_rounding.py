from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.quantization.number_format import INT7, INT8, NumberFormat, on_grid
from kdeploy.quantization.rounding import round_by_output

INT3 = NumberFormat(name="int3", bits=3, is_signed=True, is_symmetric=True)


@pytest.fixture
def layer():
    """Return a weight (outputs, inputs) and inputs that go together, as a network's do."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(4, 24, generator=generator)
    rows = torch.randn(200, 4, generator=generator) @ mixing
    rows += 0.1 * torch.randn(rows.shape, generator=generator)
    return torch.randn(8, 24, generator=generator), rows


def grams(rows):
    return (rows.T @ rows / len(rows))[None]


def errors(weight, codes, scales, rows):
    rounded = torch.from_numpy(codes * scales)
    return (rows @ (rounded - weight).T).square().mean(0)


@pytest.mark.parametrize("number_format", [INT8, INT7, INT3])
def test_no_output_errs_more_than_with_the_nearest_codes(layer, number_format):
    weight, rows = layer
    learned = round_by_output(weight, grams(rows), number_format, iterations=300)
    before = errors(weight, *on_grid(weight.numpy(), number_format), rows)
    after = errors(weight, *on_grid(learned.numpy(), number_format), rows)
    assert (after <= before * 1.001).all()
    assert after.sum() < 0.6 * before.sum()


@pytest.mark.parametrize("number_format", [INT8, INT7, INT3])
def test_rounding_the_result_again_gives_the_same_codes_and_scales(layer, number_format):
    weight, rows = layer
    learned = round_by_output(weight, grams(rows), number_format, iterations=100).numpy()
    codes, scales = on_grid(learned, number_format)
    assert np.array_equal(scales, on_grid(weight.numpy(), number_format)[1])
    np.testing.assert_allclose(codes * scales, learned, rtol=1e-6)
    again = np.clip(codes * scales, *(s * np.abs(weight.numpy()).max(1)[:, None] for s in (-1, 1)))
    assert np.array_equal(on_grid(again.astype(np.float32), number_format)[0], codes)


def test_each_weight_goes_up_or_down_by_less_than_one_step(layer):
    weight, rows = layer
    learned = round_by_output(weight, grams(rows), INT3, iterations=100)
    scales = torch.from_numpy(on_grid(weight.numpy(), INT3)[1])
    assert ((learned - weight).abs() <= scales * (1 + 1e-5)).all()
    assert not torch.equal(learned, torch.from_numpy(np.multiply(*on_grid(weight.numpy(), INT3))))


def test_zeros_stay_zero_so_that_sparsity_does(layer):
    weight, rows = layer
    weight = weight * (torch.arange(24) % 4 < 2)
    learned = round_by_output(weight, grams(rows), INT3, iterations=100)
    assert (learned[weight == 0] == 0).all()


def test_groups_have_moments_of_their_own():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(4, 1, 3, 3, generator=generator)
    rows = torch.randn(2, 50, 9, generator=generator) + 1
    both = rows.transpose(1, 2) @ rows / 50
    whole = round_by_output(weight, both, INT3, iterations=100)
    halves = [
        round_by_output(weight[2 * g : 2 * g + 2], both[g : g + 1], INT3, iterations=1)
        for g in (0, 1)
    ]
    assert whole.shape == torch.cat(halves).shape == weight.shape
    for group, half in enumerate(halves):
        error = [
            (w.flatten(1) - weight[2 * group : 2 * group + 2].flatten(1)) @ rows[group].T
            for w in (whole[2 * group : 2 * group + 2], half)
        ]
        assert error[0].square().sum() <= error[1].square().sum()
