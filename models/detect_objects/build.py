"""A small detector without anchors, after Tian et al., ICCV 2019, arXiv:1904.01355.

A backbone of plain 3x3 convolutions, features at strides 8 and 16 of which the coarse ones are
added to the fine ones, and for each stride one layer of boxes and one of scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16)
PRIOR = 0.01
"""Of a cell's score before training: most cells show nothing (arXiv:1708.02002, section 4.1)."""


def detector(*, width: int = 32, depth: int = 2, num_classes: int = 10) -> Detector:
    """Return a network of plain convolutions: (N, 3, H, W) -> boxes and scores at both strides."""
    return Detector(_convolution, width, depth, num_classes)


def separable(*, width: int = 19, depth: int = 2, num_classes: int = 10) -> Detector:
    """Return one whose 3x3 convolutions are per channel, each followed by a 1x1 convolution.

    After Howard et al., 2017, arXiv:1704.04861: a tenth of the numbers at the same widths.
    """
    return Detector(_separable, width, depth, num_classes)


class Detector(nn.Module):
    """Returns `boxes`, distances in pixels, and `scores`, logits; each a list over strides."""

    def __init__(
        self, convolution: Callable[..., nn.Module], width: int, depth: int, num_classes: int
    ) -> None:
        super().__init__()
        self.stem = _convolution(3, width, stride=2)
        self.quarter = _stage(convolution, width, 2 * width, depth)
        self.eighth = _stage(convolution, 2 * width, 4 * width, depth)
        self.sixteenth = _stage(convolution, 4 * width, 4 * width, depth)
        self.lateral = _convolution(4 * width, 4 * width, kernel=1)
        self.towers = nn.ModuleList(convolution(4 * width, 4 * width) for _ in STRIDES)
        self.boxes = nn.ModuleList(nn.Conv2d(4 * width, 4, 1) for _ in STRIDES)
        self.scores = nn.ModuleList(nn.Conv2d(4 * width, num_classes, 1) for _ in STRIDES)
        for layer in self.scores:
            nn.init.constant_(layer.bias, -math.log(1 / PRIOR - 1))

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        fine = self.eighth(self.quarter(self.stem(x)))
        coarse = self.sixteenth(fine)
        fine = self.lateral(fine) + functional.interpolate(coarse, scale_factor=2.0)
        features = [tower(x) for tower, x in zip(self.towers, (fine, coarse), strict=True)]
        distances = [
            functional.softplus(layer(x)) * stride
            for layer, x, stride in zip(self.boxes, features, STRIDES, strict=True)
        ]
        scores = [layer(x) for layer, x in zip(self.scores, features, strict=True)]
        return {"boxes": distances, "scores": scores}


def _stage(
    convolution: Callable[..., nn.Module], inputs: int, outputs: int, depth: int
) -> nn.Sequential:
    """Return `depth` convolutions, the first of which halves the size."""
    first = convolution(inputs, outputs, stride=2)
    return nn.Sequential(first, *(convolution(outputs, outputs) for _ in range(depth - 1)))


def _convolution(
    inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    # Without bias: a batch norm follows and has one.
    layer = nn.Conv2d(
        inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def _separable(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        _convolution(inputs, inputs, stride=stride, groups=inputs),
        _convolution(inputs, outputs, kernel=1),
    )
