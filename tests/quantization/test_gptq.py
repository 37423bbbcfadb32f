"""GPTQ and rounding in blocks: the rules that have to hold, and a reference in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kdeploy.errors import ModelError
from kdeploy.quantization.block_rounding import BlockFormat, grid_of, lies_on_grid
from kdeploy.quantization.gptq import gptq, output_error
from kdeploy.torch_module.block_quantized import dequantized, packed, unpacked

FORM = BlockFormat(bits=4, block_size=16)


def _weight(rows: int = 24, columns: int = 64) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)) * 0.1


def _gram(columns: int = 64, *, rows: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(rows, columns, generator=generator)
    x = x @ torch.randn(columns, columns, generator=generator) * torch.linspace(0.2, 4, columns)
    return x.T @ x / rows


def test_without_correlation_it_is_rounding_to_nearest() -> None:
    weight = _weight()
    _, codes = gptq(weight, torch.eye(64), FORM, search=False, ordered=False)
    assert torch.equal(codes, grid_of(weight, FORM).codes_of(weight))


@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_on_the_grid_stay(symmetric: bool) -> None:
    form = BlockFormat(bits=4, block_size=16, symmetric=symmetric)
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 16, (8, 4, 16), generator=generator).float()
    codes[..., 0], codes[..., 1] = 0, 15  # whole ranges
    weight = ((codes - 8) * 0.125).flatten(1)
    grid, found = gptq(weight, _gram(), form)
    assert torch.equal(grid.real(found), weight)


def test_the_error_of_the_outputs_is_below_that_of_rounding_to_nearest() -> None:
    weight, gram = _weight(), _gram()
    nearest_grid = grid_of(weight, FORM)
    plain = output_error(weight, nearest_grid.real(nearest_grid.codes_of(weight)), gram)
    found = {}
    for ordered in (False, True):
        grid, codes = gptq(weight, gram, FORM, search=False, ordered=ordered)
        found[ordered] = output_error(weight, grid.real(codes), gram)
        assert found[ordered] < plain
    grid, codes = gptq(weight, gram, FORM)
    assert output_error(weight, grid.real(codes), gram) < plain


def test_rows_are_independent() -> None:
    weight, gram = _weight(), _gram()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(4))
    _, codes = gptq(weight, gram, FORM)
    _, permuted = gptq(weight[order], gram, FORM)
    assert torch.equal(permuted, codes[order])


def test_permuting_the_inputs_of_whole_blocks_permutes_the_codes() -> None:
    weight, gram = _weight(), _gram()
    order = torch.arange(64).reshape(4, 16)[[2, 0, 3, 1]].flatten()
    _, codes = gptq(weight, gram, FORM)
    _, permuted = gptq(weight[:, order], gram[order][:, order], FORM)
    assert torch.equal(permuted, codes[:, order])


def test_equals_the_papers_algorithm_in_float64() -> None:
    weight, gram = _weight(4), _gram()
    grid, codes = gptq(weight, gram, FORM, search=False, ordered=False)
    w, h = weight.double().numpy(), gram.double().numpy()
    h = h + np.eye(64) * 0.01 * h.diagonal().mean()
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    scales = grid.scales.double().numpy().repeat(16, 1)
    expected = np.zeros_like(w)
    for j in range(64):
        expected[:, j] = np.clip(np.round(w[:, j] / scales[:, j] + 8), 0, 15)
        error = (w[:, j] - (expected[:, j] - 8) * scales[:, j]) / upper[j, j]
        w[:, j:] -= np.outer(error, upper[j, j:])
    # A number at the border of two codes may fall to either side of it in float32.
    assert (codes.numpy() == expected).mean() > 0.98


def test_an_input_that_is_always_zero_and_one_that_repeats_another_are_no_obstacle() -> None:
    gram = _gram()
    gram[5] = gram[:, 5] = 0
    gram[7], gram[:, 7] = gram[6], gram[:, 6]
    gram[7, 7] = gram[6, 6]
    grid, codes = gptq(_weight(), gram, FORM)
    assert bool(torch.isfinite(grid.real(codes)).all())


def test_damping_is_raised_where_there_is_no_inverse() -> None:
    gram = torch.ones(64, 64) * 1e4 - torch.eye(64) * 600  # eigenvalues of -600
    _, codes = gptq(_weight(), gram, FORM)
    assert bool(((codes >= 0) & (codes <= 15)).all())


def test_a_weight_that_is_no_number_is_refused() -> None:
    weight = _weight()
    weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        gptq(weight, _gram(), FORM)


def test_a_gram_that_is_no_gram_is_refused_with_the_parameter() -> None:
    with pytest.raises(ModelError, match="inverted") as found:
        gptq(_weight(), torch.full((64, 64), float("nan")), FORM)
    assert "calibration_batches" in str(found.value.hint)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("rows", "columns", "block"), [(3, 576, 32), (5, 48, 32), (7, 576, 128)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_packing_and_unpacking_is_the_identity(
    bits: int, rows: int, columns: int, block: int, symmetric: bool
) -> None:
    form = BlockFormat(bits=bits, block_size=block, symmetric=symmetric)
    weight = _weight(rows, columns)
    grid = grid_of(weight, form)
    codes = grid.codes_of(weight)
    stored = grid.stored(codes)
    blocks = -(-columns // block)
    assert stored["codes"].shape == (rows, blocks, block * bits // 8)
    assert ("zero_points" in stored) is not symmetric
    real = dequantized(stored["codes"], stored["scales"], stored.get("zero_points"), bits, block)
    assert torch.equal(real[:, :columns], grid.real(codes))
    assert not bool(real[:, columns:].any())
    assert torch.equal(unpacked(packed(codes, bits), bits)[:, :columns].float(), codes)


def test_bytes_hold_the_first_code_in_their_low_bits() -> None:
    assert packed(torch.tensor([[1, 2, 15, 0]]), 4).tolist() == [[0x21, 0x0F]]


@pytest.mark.parametrize("symmetric", [True, False])
def test_searched_scales_have_no_larger_weighted_error(symmetric: bool) -> None:
    form = BlockFormat(bits=4, block_size=32, symmetric=symmetric)
    weight, importance = _weight(), torch.linspace(0.1, 3, 64)
    errors = []
    for grid in (grid_of(weight, form), grid_of(weight, form, importance)):
        difference = grid.real(grid.codes_of(weight)) - weight
        errors.append(float((difference.square() * importance).sum()))
    assert errors[1] < errors[0]


def test_eight_bits_are_sixteen_times_finer() -> None:
    weight = _weight()
    fine = grid_of(weight, BlockFormat(bits=8, block_size=32))
    coarse = grid_of(weight, BlockFormat(bits=4, block_size=32))
    fine_error, coarse_error = (
        float((g.real(g.codes_of(weight)) - weight).square().mean().sqrt()) for g in (fine, coarse)
    )
    assert 12 < coarse_error / fine_error < 20


def test_weights_out_of_a_four_bit_file_are_seen() -> None:
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(0, 16, (64, 4, 32), generator=generator).float()
    scale = torch.rand(64, 4, 1, generator=generator).half().float() + 0.01
    offset = torch.randn(64, 4, 1, generator=generator).half().float()
    assert lies_on_grid((codes * scale + offset).flatten(1))
    assert not lies_on_grid(_weight(64, 128))
