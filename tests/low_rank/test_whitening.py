"""Roots of second moments, and of parts of them."""

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.low_rank.whitening import DAMPING, of_channels, of_columns, root_of, without
from kdeploy.torch_module.input_gram import input_grams


def moment_of(x):
    return x.T @ x / len(x)


def test_the_root_squared_is_the_damped_moment():
    gram = moment_of(torch.randn(50, 6))
    root = root_of(gram).numpy()
    expected = gram.double().numpy() + DAMPING * np.trace(gram) / 6 * np.eye(6)
    np.testing.assert_allclose(root @ root.T, expected, rtol=1e-6)


def test_fewer_rows_than_inputs_have_a_root():
    gram = moment_of(torch.randn(2, 40))
    assert root_of(gram).diagonal().min() > 0


@pytest.mark.parametrize("gram", [torch.zeros(3, 3), torch.full((3, 3), torch.inf)])
def test_without_information_the_root_is_the_identity(gram):
    assert torch.equal(root_of(gram), torch.eye(3, dtype=torch.float64))


def test_the_inverse_is_taken_away():
    root, matrix = root_of(moment_of(torch.randn(20, 5))), torch.randn(3, 5).double()
    torch.testing.assert_close(without(root, matrix @ root), matrix)


def test_columns_are_patches_one_kernel_column_wide():
    x = torch.randn(2, 3, 8, 9)
    whole = input_grams(nn.Conv2d(3, 4, (3, 2)), [x], [""])[""][0]
    seen = [
        input_grams(nn.Conv2d(3, 4, (3, 1)), [part], [""])[""][0]
        for part in (x[..., :-1], x[..., 1:])
    ]
    torch.testing.assert_close(of_columns(whole, 3, (3, 2)), torch.stack(seen).mean(0))


def test_channels_are_the_mean_over_positions():
    x = torch.randn(2, 3, 7)
    whole = input_grams(nn.Conv1d(3, 4, 2), [x], [""])[""][0]
    seen = [
        input_grams(nn.Conv1d(3, 4, 1), [part], [""])[""][0] for part in (x[..., :-1], x[..., 1:])
    ]
    torch.testing.assert_close(of_channels(whole, 3), torch.stack(seen).mean(0))
