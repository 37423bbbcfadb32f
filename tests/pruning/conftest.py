"""Networks that couple channels in each of the ways that there are."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 24, 3, padding=1)
        self.outer = nn.Conv2d(24, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 32, 1, stride=2)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(x + self.outer(functional.relu(self.inner(x))))
        return self.head(self.down(x).relu().mean((2, 3)))


class Concat(nn.Module):
    """Two branches are joined, split and summed; a flattened map feeds the head."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 16, 3, padding=1)
        self.right = nn.Conv2d(3, 16, 1)
        self.mix = nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16 * 16, 5)

    def forward(self, x):
        both = torch.cat([self.left(x), self.right(x).relu()], 1)
        first, second = both.chunk(2, 1)
        x = functional.max_pool2d(self.mix(both) + first * second, 2)
        return self.head(x.flatten(1))


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(3, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.point = nn.Conv2d(32, 16, 1)
        self.squeeze = nn.Conv2d(16, 8, 1)
        self.excite = nn.Conv2d(8, 16, 1)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x):
        x = self.point(functional.relu6(self.depthwise(self.expand(x))))
        gate = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(x * gate).mean((2, 3))


class Grouped(nn.Module):
    """Grouped convolutions with a channel shuffle between them, and a group norm."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, padding=1)
        self.grouped = nn.Conv2d(24, 32, 1, groups=4)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.second = nn.Conv2d(32, 24, 1, groups=4)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        x = self.grouped(self.first(x).relu()).relu()
        count, channels, height, width = x.shape
        x = x.view(count, 4, channels // 4, height, width).transpose(1, 2).contiguous()
        x = self.second(self.depthwise(x.view(count, channels, height, width)))
        return self.head(x.relu().mean((2, 3)))


class Shared(nn.Module):
    """One convolution runs twice; the model's input is added to its output."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.inner = nn.Conv2d(16, 24, 1)
        self.back = nn.Conv2d(24, 3, 1)
        self.scale = nn.Parameter(torch.rand(16, 1, 1))
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        y = self.twice(self.twice(self.stem(x)).relu()) * self.scale
        return self.head((x + self.back(self.inner(y).relu())).mean((2, 3)))


class Tokens(nn.Module):
    """A transformer's block on patches, with attention from its parts."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, stride=2)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.project = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 48), nn.Linear(48, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        parts = [
            part(x).view(*x.shape[:2], 2, 8).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        ]
        seen = functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        x = x + self.project(seen)
        x = x + self.down(functional.gelu(self.up(self.norm(x))))
        return self.head(x.mean(1))


class Signal(nn.Module):
    """One dimension: (batch, channels, length)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm1d(16)
        self.other = nn.Conv1d(3, 8, 1)
        self.mix = nn.Conv1d(24, 16, 3)
        self.head = nn.Linear(16 * 6, 5)

    def forward(self, x):
        x = x.flatten(2)[:, :, :8]
        x = torch.cat([self.norm(self.stem(x)).relu(), self.other(x)], 1)
        return self.head(torch.flatten(self.mix(x).relu(), 1))


class Mixed(nn.Module):
    """A split whose sizes are an attribute, and one whose sizes are in the code."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 1)
        self.sizes = [12, 8]
        self.first, self.second = nn.Conv2d(12, 16, 3, padding=1), nn.Conv2d(8, 16, 1)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        first, second = torch.split(self.stem(x), self.sizes, 1)
        left, right = (self.first(first) + self.second(second)).split(8, 1)
        return self.head((self.left(left) + self.right(right)).relu().mean((2, 3)))


class Vision(nn.Module):
    """A class token, a norm of maps that runs on the last dimension, a fixed position table."""

    def __init__(self, *, table):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 2, stride=2)
        self.norm = MapNorm(16)
        self.patches = nn.Conv2d(16, 24, 1)
        self.token = nn.Parameter(torch.rand(1, 1, 24))
        self.table = torch.rand(1, 17, 24) if table else 0
        self.up, self.down = nn.Linear(24, 32), nn.Linear(32, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        x = self.patches(self.norm(self.stem(x))).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.table
        x = x + self.down(functional.gelu(self.up(x)))
        return self.head(x[:, 0])


class MapNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NETS = {
    net.__name__: net
    for net in (Residual, Concat, Depthwise, Grouped, Shared, Tokens, Signal, Mixed)
}
NETS |= {"Vision": partial(Vision, table=False), "Table": partial(Vision, table=True)}


@pytest.fixture
def make():
    """Return a function that makes a network by name, in eval mode, with lively norms."""

    def build(name):
        torch.manual_seed(0)
        model = NETS[name]().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.data.uniform_(0.5, 1.5)
                for tensor in (module.bias, module.running_mean):
                    tensor.data.normal_(std=0.3)
        return model

    return build


@pytest.fixture
def example():
    torch.manual_seed(1)
    return torch.randn(2, 3, 8, 8)
