"""Embeddings: averaged over positions, of length 1, safe where nothing is alive."""

from __future__ import annotations

import pytest
import torch

from kdeploy.distill.embeddings import pooled, unit


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 7), (4, 3, 5, 6)])
def test_maps_are_averaged_over_their_positions(shape):
    features = torch.randn(shape)
    expected = features if len(shape) == 2 else features.mean(tuple(range(2, len(shape))))
    assert torch.allclose(pooled(features), expected, atol=1e-6)


def test_vectors_have_length_one():
    assert torch.allclose(unit(torch.randn(4, 3)).norm(dim=1), torch.ones(4))


def test_a_dead_vector_stays_dead_with_a_sane_gradient():
    vectors = torch.zeros(2, 3, requires_grad=True)
    unit(vectors).sum().backward()
    assert unit(vectors).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert vectors.grad.tolist() == [[1, 1, 1], [1, 1, 1]]
