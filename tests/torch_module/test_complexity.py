"""Counts: of parameters, bytes and products, by the formulas and nothing else."""

import copy

import pytest
import torch
from torch import nn

from kdeploy.torch_module.complexity import count_bytes, count_macs, count_parameters


@pytest.fixture
def net():
    torch.manual_seed(0)
    tail = nn.Sequential(nn.Conv2d(8, 6, 1), nn.Dropout(0.1))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), tail, *head)


def test_counts_follow_the_formulas(net):
    macs = 3 * 8 * 9 * 36 + 8 * 6 * 36 + 6 * 4
    assert count_macs(net, torch.zeros(3, 3, 6, 6)) == macs
    assert count_parameters(net) == 3 * 8 * 9 + 16 + 8 * 6 + 6 + 6 * 4 + 4


def test_counting_leaves_the_model_as_it_was(net):
    net.train()
    net[2].eval()
    flags = [module.training for module in net.modules()]
    before = copy.deepcopy(net.state_dict())
    count_macs(net, torch.randn(2, 3, 6, 6))
    assert [module.training for module in net.modules()] == flags
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_counts_the_products_of_attention():
    query, key = torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 7, 8)

    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, key[: len(x)], key[: len(x)])

    assert count_macs(Attention(), query) == 3 * 5 * 7 * (8 + 8)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_counts_the_products_of_recurrent_layers(kind, gates):
    layer = kind(6, 5, batch_first=True, bidirectional=True)
    assert count_macs(layer, torch.zeros(3, 7, 6)) == 7 * 2 * gates * 5 * (6 + 5)


def test_looking_words_up_costs_no_products():
    assert count_macs(nn.Embedding(9, 4), torch.ones(2, 3, dtype=torch.int64)) == 0


def test_bytes_count_a_tensor_of_two_names_once():
    layer = nn.Linear(4, 4, bias=False)
    assert count_bytes(nn.Sequential(layer, layer, nn.Linear(4, 4).half())) == 64 + 2 * 20
