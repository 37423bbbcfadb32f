"""Your models: functions that return a torch module whose forward gives logits."""

from __future__ import annotations

from torch import nn


def convnet(*, width: int = 32, num_classes: int = 10, in_channels: int = 1) -> nn.Module:
    """Return a small convolutional network: (N, in_channels, H, W) -> (N, num_classes)."""
    return nn.Sequential(
        *_block(in_channels, width, stride=1),
        *_block(width, 2 * width, stride=2),
        *_block(2 * width, 4 * width, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, num_classes),
    )


def _block(inputs: int, outputs: int, *, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
