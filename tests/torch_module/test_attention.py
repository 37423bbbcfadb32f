"""Attention is seen in what a model computes, not in how its classes are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.torch_module.attention import attends

WIDTH = 8


class Mixer(nn.Module):
    """Weighs positions by a way that is handed in."""

    def __init__(self, weigh):
        super().__init__()
        self.weigh = weigh
        self.projections = nn.Linear(WIDTH, 3 * WIDTH)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.weigh(self, *self.projections(x).chunk(3, dim=-1))


def products(mixer, query, key, value):
    return (query @ key.mT).softmax(-1) @ value


def after_dropout(mixer, query, key, value):
    scores = torch.bmm(query, key.transpose(1, 2))
    scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -1e9)
    return torch.bmm(mixer.dropout(nn.functional.softmax(scores, dim=-1)).to(value.dtype), value)


def by_einsum(mixer, query, key, value):
    weights = torch.softmax(torch.einsum("bqd,bkd->bqk", query, key), dim=-1)
    return torch.einsum("bqk,bkd->bqd", weights, value)


def fused(mixer, query, key, value):
    return nn.functional.scaled_dot_product_attention(query, key, value)


def gates(mixer, query, key, value):
    """As squeeze-and-excitation, and as kernels that are selected: no product of matrices."""
    return query.sigmoid() * value + key.softmax(-1) * value


def without_softmax(mixer, query, key, value):
    return (query @ key.mT).relu() @ value


@pytest.mark.parametrize("weigh", [products, after_dropout, by_einsum, fused])
def test_attention_is_seen_under_any_name(weigh):
    assert attends(Mixer(weigh), torch.randn(2, 5, WIDTH))


@pytest.mark.parametrize("weigh", [gates, without_softmax])
def test_what_only_looks_like_it_is_none(weigh):
    assert not attends(Mixer(weigh), torch.randn(2, 5, WIDTH))


def test_a_softmax_at_the_end_is_none():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 3), nn.Softmax(dim=-1))
    assert not attends(model, torch.randn(2, 1, 6, 6))


@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_own_layers_are_known(batch_first):
    layer = nn.TransformerEncoderLayer(WIDTH, 2, batch_first=batch_first)
    assert attends(layer, torch.randn(2, 5, WIDTH))


def test_the_model_stays_as_it_was():
    model = Mixer(after_dropout).train()
    state = torch.get_rng_state()
    attends(model, torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0)))
    assert model.training
    assert model.dropout.training
    assert torch.equal(torch.get_rng_state(), state)
