"""A residual network for small images, after He et al., CVPR 2016, arXiv:1512.03385, section 4.2.

A 3x3 stem, three stages of `depth` blocks at widths w, 2w and 4w, each stage but the first at half
the resolution, global average pooling and a linear layer. The stages are the children "1", "2" and
"3", the names by which a recipe's `layers` pairs a student's stage with a teacher's.
Width 32 and depth 3: 1 084 010 parameters; width 8 and depth 1: 19 810.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def resnet(
    *, width: int = 32, depth: int = 3, num_classes: int = 10, in_channels: int = 1
) -> nn.Sequential:
    """Return the network: (N, in_channels, H, W) -> logits (N, num_classes)."""
    stem = [_convolution(in_channels, width, 3, 1), nn.BatchNorm2d(width), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes)]
    network = nn.Sequential(
        nn.Sequential(*stem),  # (N, w, H, W)
        _stage(width, width, depth, stride=1),  # (N, w, H, W)
        _stage(width, 2 * width, depth, stride=2),  # (N, 2w, H/2, W/2)
        _stage(2 * width, 4 * width, depth, stride=2),  # (N, 4w, H/4, W/4)
        nn.Sequential(*head),
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; a 1x1 convolution on it where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _convolution(outputs, outputs, 3, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = _convolution(inputs, outputs, 1, stride)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


def _stage(inputs: int, outputs: int, depth: int, *, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(depth - 1)))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    # Without bias: a batch norm follows and has one.
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
