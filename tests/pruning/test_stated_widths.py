"""A model that cannot run with fewer channels: the hint names the size that its code states."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.pruning.groups import LayerDim
from kdeploy.pruning.removal import remove_checked


class Stated(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.width = how, 8
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.first(x)
        if self.how == "number":
            x = x.view(len(x), 8, -1).unflatten(2, (6, 6))
        if self.how == "attribute":
            x = x.view(len(x), self.width, -1).unflatten(2, (6, 6))
        return self.head(self.second(x).mean((2, 3)))


CHANNELS = {LayerDim("first", "out"): (0, 3), LayerDim("second", "in"): (0, 3)}


@pytest.mark.parametrize(
    ("how", "channels", "hint"),
    [
        ("number", CHANNELS, "`8` in that line is the width 8 that `first` had, and it has 6 now"),
        ("attribute", CHANNELS, "`self.width` in that line is the width 8 that `first` had"),
        (
            "",
            {LayerDim("first", "out"): (0, 3)},
            "no width that went stands in that line; keep whole what leads to it, by `ignore`: "
            "first (6 of 8) lost channels",
        ),
    ],
)
def test_the_hint_names_a_fixed_size_only_where_there_is_one(how, channels, hint):
    with pytest.raises(ModelError, match="with fewer channels the model cannot run") as caught:
        remove_checked(Stated(how).eval(), channels, torch.rand(2, 1, 6, 6))
    assert hint in caught.value.hint
