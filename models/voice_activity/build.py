"""Voice activity: silero-vad's network as a teacher, and a small recurrent network.

Both take a clip as frames of 512 samples at 16 kHz, each with the 64 samples before it, and carry a
state from frame to frame; they answer with a logit of speech for each frame. The teacher's tensors
come out of an ONNX file of the package `silero-vad`, which is read and never imported.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.errors import MissingDependency, ModelError
from kdeploy.store.artifact import file_sha256

PACKAGE = "silero-vad"
FILE = "data/silero_vad_16k_sequence.onnx"
SHA256 = "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"
RATE = 16_000
FRAME, CONTEXT, PADDED = 512, 64, 64
"""Samples: of a frame, before it, and mirrored behind it."""
WINDOW = 256


def silero() -> nn.Module:
    """Return silero-vad with its weights: (N, 1, 512 * frames) -> logits (N, frames).

    Raises:
        MissingDependency: the package is not installed.
        ModelError: its file is another one.
    """
    file = weights_file()
    if file_sha256(file) != SHA256:
        raise ModelError(
            f"{file} is not the file that this was written for: its sha256 is not {SHA256}",
            hint=f"pip install --no-deps --force-reinstall {PACKAGE}==6.2.3",
        )
    model = Silero()
    model.load_state_dict(tensors_of(file))
    return model


def student(*, filters: int = 32, hidden: int = 32) -> Student:
    """Return the small network: (N, 1, 512 * frames) -> logits (N, frames)."""
    return Student(filters, hidden)


def weights_file() -> Path:
    """Return where the package has its ONNX file."""
    found = find_spec(PACKAGE.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise MissingDependency.named(
            PACKAGE, needed_for="the teacher `silero`", pip=f"--no-deps {PACKAGE}==6.2.3"
        )
    return Path(found.submodule_search_locations[0]) / FILE


def tensors_of(file: Path) -> dict[str, Tensor]:
    """Return the tensors of silero-vad's ONNX file under the names of `Silero`."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(file, load_external_data=False).graph
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    [inputs, states, biases] = next(n for n in graph.node if n.op_type == "LSTM").input[1:4]
    found = {"stft": stored["stft.forward_basis_buffer"]}
    found |= {n: a for n, a in stored.items() if n.startswith(("encoder.", "output."))}
    found["lstm.weight_ih_l0"] = _gates(stored[inputs][0])
    found["lstm.weight_hh_l0"] = _gates(stored[states][0])
    for name, half in zip(("ih", "hh"), np.split(stored[biases][0], 2), strict=True):
        found[f"lstm.bias_{name}_l0"] = _gates(half)
    return {name: torch.from_numpy(array.copy()) for name, array in found.items()}


def _gates(rows: np.ndarray) -> np.ndarray:
    """Return the rows of ONNX's gates (input, output, forget, cell) in torch's order."""
    entry, output, forget, cell = np.split(rows, 4)
    return np.concatenate([entry, forget, cell, output])


def framed(x: Tensor) -> Tensor:
    """Return clips (N, 1, 512 * frames) as windows of frames, (N * frames, 1, 640)."""
    frames = x.reshape(x.shape[0], -1, FRAME)
    # Not `unfold`: an exported file would hold the place of each sample.
    before = functional.pad(frames[..., -CONTEXT:], (0, 0, 1, 0))[:, :-1]
    windows = torch.cat([before, frames], 2).reshape(-1, 1, CONTEXT + FRAME)
    return functional.pad(windows, (0, PADDED), mode="reflect")


class Silero(nn.Module):
    """Magnitudes of a short-time Fourier transform, four convolutions, an LSTM; 309 633 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("stft", torch.zeros(WINDOW + 2, 1, WINDOW))
        sizes = (WINDOW // 2 + 1, 128, 64, 64, 128)
        strides = (1, 2, 2, 1)
        self.encoder = nn.ModuleList(
            nn.Conv1d(a, b, 3, stride, padding=1)
            for a, b, stride in zip(sizes[:-1], sizes[1:], strides, strict=True)
        )
        self.lstm = nn.LSTM(128, 128, batch_first=True)
        self.output = nn.Conv1d(128, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        real, imaginary = functional.conv1d(framed(x), self.stft, stride=WINDOW // 2).chunk(2, 1)
        features = torch.sqrt(real**2 + imaginary**2)
        for layer in self.encoder:
            features = torch.relu(layer(features))
        outputs, _ = self.lstm(features.reshape(x.shape[0], -1, 128))
        return self.output(torch.relu(outputs).transpose(1, 2))[:, 0]


class Student(nn.Module):
    """Loudness in learned bands, an LSTM, a linear layer; 17 729 numbers."""

    def __init__(self, filters: int, hidden: int) -> None:
        super().__init__()
        self.bands = nn.Conv1d(1, filters, WINDOW, stride=WINDOW // 4, bias=False)
        with torch.no_grad():
            self.bands.weight.copy_(_waves(filters))
        self.mix = nn.Linear(filters, hidden)
        self.recurrent = nn.LSTM(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        loudness = self.bands(framed(x)).abs().mean(-1)
        features = torch.relu(self.mix(torch.log(loudness + 1e-3)))
        outputs, _ = self.recurrent(features.reshape(x.shape[0], -1, features.shape[1]))
        return self.head(outputs)[..., 0]


def _waves(count: int) -> Tensor:
    """Return windowed waves (count, 1, 256) from 80 Hz to 6 kHz, evenly spaced for the ear."""
    # O'Shaughnessy's mel: 2595 log10(1 + f / 700).
    mels = torch.linspace(*(2595 * math.log10(1 + f / 700) for f in (80, 6000)), count)
    frequencies = 700 * (10 ** (mels / 2595) - 1)
    time = torch.arange(WINDOW) / RATE
    waves = torch.cos(2 * math.pi * frequencies[:, None] * time)
    return (waves * torch.hann_window(WINDOW) / (WINDOW / 4))[:, None]
