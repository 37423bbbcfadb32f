"""Small networks, one for each pattern that placement and export must know."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv(inputs: int, outputs: int, size: int = 3, groups: int = 1) -> nn.Sequential:
    """Return a convolution and its batch norm."""
    layer = nn.Conv2d(inputs, outputs, size, 1, size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Concatenating(nn.Module):
    """Two branches, one signed, one not, on one concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv(3, 8), conv(8, 8, 1), conv(8, 8)
        self.last, self.head = conv(16, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.stem(x)), 2)
        x = torch.cat((functional.relu(self.left(x)), self.right(x)), 1)
        return self.head(functional.relu6(self.last(x)).mean((2, 3)))


class Shuffling(nn.Module):
    """A split, a grouped convolution and a channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = conv(3, 16), conv(8, 8, 3, 8)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        kept, x = torch.chunk(torch.relu(self.stem(x)), 2, 1)
        x = torch.cat((kept, torch.relu(self.grouped(x))), 1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        x = x.view(batch, channels, height, width)
        return self.head(self.pool(x).flatten(1))


class Squeezing(nn.Module):
    """Squeeze and excitation, silu and hardswish, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle, self.last = conv(3, 8), conv(8, 8), conv(8, 8)
        self.reduce, self.expand = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.stem(x))
        gate = functional.relu(self.reduce(functional.adaptive_avg_pool2d(x, 1)))
        x = x * torch.sigmoid(self.expand(gate))
        x = functional.hardswish(self.middle(x))
        x = functional.avg_pool2d(functional.hardtanh(self.last(x)), 2)
        return self.head(self.dropout(x).mean((-2, -1)))


class PreActivated(nn.Module):
    """Batch norms before their convolutions, as in dense networks, in place where that is usual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm, self.conv = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 1, 1, bias=False)
        self.last, self.head = nn.BatchNorm2d(16), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat((x, self.conv(functional.relu(self.norm(x), inplace=True))), 1)
        x = self.head(functional.relu(self.last(x), inplace=True))
        x += 0.5
        return functional.adaptive_avg_pool2d(x, 1).flatten(1)


class Signal(nn.Module):
    """One-dimensional convolutions over (channels, length)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv1d(4, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)),
            *(nn.Conv1d(8, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.AdaptiveAvgPool1d(1)),
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).squeeze(-1))


class Attending(nn.Module):
    """Patches, an encoder layer of PyTorch's own, a mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True, norm_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(x.mean(1))


def perceptron() -> nn.Module:
    """Return linear layers with a batch norm between."""
    hidden = (nn.Linear(48, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.GELU())
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(16, 5))


concatenating, shuffling, squeezing = Concatenating, Shuffling, Squeezing
pre_activated, signal, attending = PreActivated, Signal, Attending
SHAPES = {"signal": (4, 16), "perceptron": (3, 4, 4)}
