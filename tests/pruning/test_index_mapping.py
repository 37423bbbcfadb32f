"""Numbers of channels against torch doing the same to the numbers themselves."""

import pytest
import torch
from torch import nn

from kdeploy.pruning.coupling import LayerDim, find_groups
from kdeploy.pruning.tracing import traceable


class Parts(nn.Module):
    """Parts that are read in another order than they are made, twice, or not at all."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 1)
        self.mix = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        first, _, third = self.stem(x).chunk(3, 1)
        return self.mix(torch.cat([third, first, third.relu()], 1)).mean((2, 3))


def test_parts_are_numbered_by_what_they_are_not_by_when_they_were_met():
    model = Parts().eval()
    with traceable(model):
        groups = find_groups(model, torch.randn(2, 3, 4, 4))
    assert {
        u.channels[LayerDim("stem", "out")]: u.channels.get(LayerDim("mix", "in")) for u in groups
    } == {
        **{(i,): (4 + i,) for i in range(4)},  # first
        **{(i,): None for i in range(4, 8)},  # second: read by nobody
        **{(8 + i,): (i, 8 + i) for i in range(4)},  # third
    }


@pytest.mark.parametrize("is_signal", [True, False])
def test_flattening_follows_the_place_of_the_channels(is_signal):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv1d(3, 4, 1) if is_signal else nn.Linear(3, 4)
            self.head = nn.Linear(4 * 5, 2)

        def forward(self, x):
            return self.head(self.stem(x).flatten(1))

    model = Flat().eval()
    with traceable(model):
        groups = find_groups(model, torch.randn(2, *((3, 5) if is_signal else (5, 3))))
    numbers = torch.arange(4).view(4, 1).expand(4, 5)
    flat = (numbers if is_signal else numbers.T).flatten()
    for channel, group in enumerate(groups):
        expected = (flat == channel).nonzero().flatten().tolist()
        assert group.channels[LayerDim("head", "in")] == tuple(expected)
