"""A small segmenter: features of four sizes, added from coarse to fine.

After Lin et al., CVPR 2017, arXiv:1612.03144 (feature pyramids) and Kirillov et al., CVPR 2019,
arXiv:1901.02446 (masks from them): a backbone of plain 3x3 convolutions, a 1x1 convolution of each
of its sizes, and one map of classes at half the resolution, brought to that of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional


def segmenter(*, width: int = 20, depth: int = 2, num_classes: int = 11) -> Segmenter:
    """Return a network of plain convolutions: (N, 3, H, W) -> logits (N, classes, H, W).

    H and W are multiples of 16.
    """
    return Segmenter(_convolution, width, depth, 2 * width, num_classes)


def separable(
    *, width: int = 16, depth: int = 2, merged: int = 20, num_classes: int = 11
) -> Segmenter:
    """Return one whose 3x3 convolutions are per channel, each followed by a 1x1 convolution.

    After Howard et al., 2017, arXiv:1704.04861: a tenth of the numbers at nearly the same widths.
    """
    return Segmenter(_separable, width, depth, merged, num_classes)


class Segmenter(nn.Module):
    """Logits of every pixel, computed at half the resolution."""

    def __init__(
        self,
        convolution: Callable[..., nn.Module],
        width: int,
        depth: int,
        merged: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width, 4 * width)
        self.stem = _convolution(3, widths[0], stride=2)
        self.stages = nn.ModuleList(_stage(convolution, *ends, depth) for ends in pairwise(widths))
        self.laterals = nn.ModuleList(_convolution(w, merged, kernel=1) for w in widths)
        self.head = convolution(merged, merged)
        self.classifier = nn.Conv2d(merged, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for stage in self.stages:
            found.append(stage(found[-1]))
        sizes = [lateral(x) for lateral, x in zip(self.laterals, found, strict=True)]
        merged = sizes.pop()
        while sizes:
            merged = sizes.pop() + functional.interpolate(merged, scale_factor=2.0)
        logits = self.classifier(self.head(merged))
        return functional.interpolate(logits, scale_factor=2.0, mode="bilinear")


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
