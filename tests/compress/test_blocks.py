"""Blocks: which may go, and how they go."""

import pytest
import torch
from torch import nn

from kdeploy.compress.blocks import check_dropped, drop, find_blocks, skipped


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


def test_blocks_give_back_what_they_take(stack):
    reasons = {block.name: block.reason for block in find_blocks(stack, X)}
    assert reasons == {
        "layers.0": "",
        "layers.0.inner": "",
        "layers.1": "",
        "layers.1.inner": "",
        "layers.2": "",
        "layers.2.inner": "",
        "twice": "runs 2 times",
        "twice.inner": "runs 2 times",
        "alone": "is called with more than one tensor",
        "alone.inner": "",
    }


@pytest.mark.parametrize("name", ["layers.1", "alone.inner"])
def test_a_dropped_block_computes_what_a_skipped_one_does(stack, name):
    module = stack.get_submodule(name)
    before = stack(X)
    with skipped(module):
        expected = stack(X)
        with pytest.raises(AssertionError, match=f"`{name}` is skipped"):
            check_dropped(stack)
    assert torch.equal(stack(X), before)
    put_back = drop(stack, module)
    assert torch.equal(stack(X), expected)
    assert module not in set(stack.modules())
    check_dropped(stack)
    put_back()
    assert torch.equal(stack(X), before)
    assert stack.get_submodule(name) is module
