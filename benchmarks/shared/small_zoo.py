"""A zoo of differently built networks at small inputs: every layer type, little arithmetic.

Weights are random. Networks of pytorchcv end in a pool over the 7 x 7 positions that an image of
224 pixels leaves; here one over all positions stands in its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.shared.architectures import ARCHITECTURES, settle
from benchmarks.shared.noise import noise
from kdeploy.data.contract import Dataset, Preprocessing, Split
from kdeploy.store.references import ModelReference, build_model

NUM_CLASSES, VOCABULARY, WIDTH = 10, 200, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """How a network is built, and what it takes: (channels, height, width), or one more axis less.

    A shape of one number is so many token ids.
    """

    kind: str
    build: str
    shape: tuple[int, ...]


def _images(kind: str, *names: str, size: int = 64) -> dict[str, Exhibit]:
    return {
        n: Exhibit(kind=kind, build=ARCHITECTURES[n].build, shape=(3, size, size)) for n in names
    }


def _here(kind: str, name: str, shape: tuple[int, ...]) -> dict[str, Exhibit]:
    return {name: Exhibit(kind=kind, build=f"{__name__}:{name}", shape=shape)}


ZOO = {
    **_images("plain", "nin_cifar10", size=32),
    **_images("residual", "resnet20_cifar10", size=32),
    **_images("residual", "resnet18"),
    **_images("depthwise", "mobilenetv2_w1", "mobilenetv3_small_w1"),
    **_images("shuffle", "shufflenetv2_w1"),
    **_images("dense", "peleenet"),
    **_images("squeeze-excite", "seresnet18"),
    **_images("grouped", "regnetx002"),
    **_images("transformer", "vit", "transformers_convnext"),
    **_here("transformer", "token_encoder", (32,)),
    **_here("recurrent", "lstm", (6, 32)),
    **_here("recurrent", "gru", (6, 32)),
    **_here("convolutions in time", "series_net", (6, 64)),
    **_here("plain", "sequential", (1, 32, 32)),
}


def network(name: str) -> nn.Module:
    """Return a network in eval mode, its batch norms used to noise."""
    torch.manual_seed(0)
    model = build_model(ModelReference(build=ZOO[name].build))
    for module in model.modules():
        if isinstance(getattr(module, "final_pool", None), nn.AvgPool2d):
            module.final_pool = nn.AdaptiveAvgPool2d(1)
    if len(ZOO[name].shape) > 1:
        settle(model, torch.randn(8, *ZOO[name].shape))
    return model.eval()


def items(name: str, count: int) -> Dataset:
    """Return noise of the shape that a network takes."""
    shape = ZOO[name].shape
    if len(shape) > 1:
        return noise(shape, count)
    ids = np.random.default_rng(0).integers(1, VOCABULARY, size=(count, *shape))
    part = Split(x=ids, y=np.zeros(count, np.int64))
    return Dataset(
        name="tokens",
        train=part,
        validation=part,
        test=part,
        preprocessing=Preprocessing(shape=shape, dtype="int64", vocabulary=VOCABULARY),
        fingerprint="tokens",
    )


class TokenEncoder(nn.Module):
    """Two layers of torch's own Transformer over token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, nhead=4, dim_feedforward=64, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, NUM_CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(tokens)).mean(1))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """A recurrent layer over a series (channels, length), and its last state classified."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.recurrent = kind(6, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(x.transpose(1, 2))
        return self.head(states[:, -1])  # type: ignore[no-any-return]


def token_encoder() -> nn.Module:
    """Return a Transformer encoder on token ids."""
    return TokenEncoder()


def lstm() -> nn.Module:
    """Return an LSTM over a series."""
    return Recurrent(nn.LSTM)


def gru() -> nn.Module:
    """Return a GRU over a series."""
    return Recurrent(nn.GRU)


def series_net() -> nn.Module:
    """Return dilated convolutions over a series."""
    return nn.Sequential(
        *(nn.Conv1d(6, 32, 5, padding=2), nn.BatchNorm1d(32), nn.ReLU()),
        *(nn.Conv1d(32, 32, 3, padding=2, dilation=2), nn.BatchNorm1d(32), nn.ReLU()),
        *(nn.MaxPool1d(2), nn.Conv1d(32, 64, 3, padding=4, dilation=4), nn.ReLU()),
        *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, NUM_CLASSES)),
    )


def sequential() -> nn.Module:
    """Return a chain of layers, as a tutorial has it."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.LeakyReLU(0.1), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * 8 * 8, 32), nn.Tanh(), nn.Dropout(0.5)),
        nn.Linear(32, NUM_CLASSES),
    )
