"""Blocks: which may go, and how they go."""

import pytest
import torch
from torch import nn

from kdeploy.compress.blocks import check_lists, drop, find_blocks


class Layer(nn.Module):
    def __init__(self, width=6, gain=1.0):
        super().__init__()
        self.gain = gain
        self.inner = nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, width))

    def forward(self, x, mask=None):
        return x + self.gain * self.inner(x)


class Stack(nn.Module):
    """Layers in a list, called with a mask; one is called twice, one is alone."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Layer(gain=gain) for gain in (1.0, 0.0, 2.0)])
        self.twice, self.alone = Layer(), Layer()
        self.narrow = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, None)
        x = self.twice(self.twice(x))
        return self.head(self.narrow(self.alone(x, torch.zeros(1))))


@pytest.fixture
def stack():
    return Stack().eval()


X = torch.linspace(-1, 1, 12).view(2, 6)


def test_blocks_give_back_what_they_take_or_are_in_a_list(stack):
    blocks = {block.name: block for block in find_blocks(stack, X)}
    assert {name: block.reason for name, block in blocks.items() if block.reason} == {
        "twice": "runs 2 times",
        "twice.inner": "runs 2 times",
        "alone": "is not called with one tensor for one tensor",
    }
    assert [name for name, block in blocks.items() if not block.reason] == [
        *("layers.0", "layers.0.inner", "layers.1", "layers.1.inner"),
        *("layers.2", "layers.2.inner", "alone.inner"),
    ]
    assert [n for n, block in blocks.items() if block.is_cut_out] == [f"layers.{i}" for i in "012"]
    assert [n for n, block in blocks.items() if block.is_layer] == [f"layers.{i}" for i in "012"]


@pytest.mark.parametrize("name", ["layers.1", "alone.inner"])
def test_a_dropped_block_is_gone_until_it_is_put_back(stack, name):
    [block] = [block for block in find_blocks(stack, X) if block.name == name]
    before = stack(X)
    put_back = drop(stack, block)
    check_lists(stack)
    assert block.module not in set(stack.modules())
    # The second layer adds nothing to what it is given.
    assert torch.equal(stack(X), before) == (name == "layers.1")
    put_back()
    assert torch.equal(stack(X), before)
    assert stack.get_submodule(name) is block.module


def test_a_list_with_a_gap_is_no_result():
    model = nn.Sequential(nn.ModuleList([nn.ReLU(), nn.ReLU()]))
    check_lists(model)
    del model[0]._modules["0"]
    with pytest.raises(AssertionError, match="`0` has members"):
        check_lists(model)
