"""SparseGPT against its definition, and against what it must be better than."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.sparsity.pattern import best_two_of_four, held_groups
from kdeploy.sparsity.sparse_gpt import BLOCK, DAMPING, two_of_four_by_surgery


def correlated(rows, inputs):
    mix = torch.randn(inputs, inputs) + 2 * torch.randn(1, inputs)
    return torch.randn(rows, inputs) @ mix


def moments_of(x):
    return (x.T @ x / len(x)).double()


def surgery(weight, gram):
    """Optimal Brain Surgeon, one column after another, each inverse made anew.

    The columns before are fixed: what is left is solved for the columns from here on.
    """
    weight = weight.copy()
    rest = gram + DAMPING * gram.diagonal().mean() * np.eye(len(gram))
    for column in range(weight.shape[1]):
        if column % 4 == 0:
            spread = []
            for ahead in range(column, column + 4):
                spread.append(np.linalg.inv(rest[ahead:, ahead:])[0, 0])
            costs = weight[:, column : column + 4] ** 2 / np.array(spread)
            gone = np.argsort(costs, axis=1, kind="stable")[:, :2]
        inverse = np.linalg.inv(rest[column:, column:])
        for row in np.flatnonzero((gone == column % 4).any(axis=1)):
            weight[row, column:] -= weight[row, column] / inverse[0, 0] * inverse[0]
            weight[row, column] = 0
    return weight


@pytest.mark.parametrize("inputs", [16, BLOCK + 12])
def test_is_optimal_brain_surgery(inputs):
    weight, gram = torch.randn(5, inputs).double(), moments_of(correlated(400, inputs))
    found = two_of_four_by_surgery(weight, gram)
    np.testing.assert_allclose(found.numpy(), surgery(weight.numpy(), gram.numpy()), atol=1e-8)


def test_changes_the_outputs_less_than_the_largest_weights_do():
    x, weight = correlated(500, 64), torch.randn(32, 64)
    by_size = weight * best_two_of_four(weight.abs())
    by_surgery = two_of_four_by_surgery(weight, moments_of(x))
    assert held_groups(by_surgery) == 1
    errors = [float((x @ (w - weight).T).square().mean()) for w in (by_surgery, by_size)]
    assert errors[0] < 0.5 * errors[1]


def test_an_input_that_is_always_zero_costs_nothing():
    x, weight = correlated(200, 8), torch.randn(4, 8)
    x[:, [1, 5]] = 0
    found = two_of_four_by_surgery(weight, moments_of(x))
    assert (found[:, [1, 5]] == 0).all()
    assert found.isfinite().all()
    assert held_groups(two_of_four_by_surgery(weight, torch.zeros(8, 8))) == 1


def test_weights_that_were_zero_stay_zero():
    weight = torch.randn(6, 32) * (torch.rand(6, 32) < 0.4)
    found = two_of_four_by_surgery(weight, moments_of(correlated(200, 32)))
    assert (found[weight == 0] == 0).all()
    assert held_groups(found) == 1
    assert not torch.equal(found, weight)
