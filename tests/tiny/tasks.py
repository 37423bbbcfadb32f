"""Tiny models and data, one for each task: what the tests of tasks share."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

SIZE = 16
COUNT = 96
ALPHABET = "abc"


class Dense(nn.Module):
    """Images to maps of the same size, or of half of it."""

    def __init__(self, width, outputs, stride=1):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, stride=stride, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 1),
        )

    def forward(self, x):
        return self.layers(x)


class Vector(nn.Module):
    """Images to one vector."""

    def __init__(self, width, outputs):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, stride=2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.head = nn.Linear(width * (SIZE // 4) ** 2, outputs)

    def forward(self, x):
        return self.head(self.layers(x).flatten(1))


class Frames(nn.Module):
    """Images to a character a column: (N, frames, characters)."""

    def __init__(self, width, outputs):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, stride=(2, 1), bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, stride=(2, 1), bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, (SIZE // 4, 1), bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.head = nn.Linear(width, outputs)

    def forward(self, x):
        return self.head(self.layers(x)[:, :, 0].transpose(1, 2))


class Heads(nn.Module):
    """Images to boxes and scores at stride 4, for square images."""

    def __init__(self, width, outputs):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.boxes, self.scores = nn.Conv2d(width, 4, 1), nn.Conv2d(width, outputs, 1)

    def forward(self, x):
        x = self.body(x)
        distances = nn.functional.softplus(self.boxes(x)) * 4
        return {"boxes": [distances], "scores": [self.scores(x)]}


class Words(nn.Module):
    """Token ids to logits for every token."""

    def __init__(self, width, outputs, vocabulary=12):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x):
        return self.head(torch.relu(self.hidden(self.embed(x))))


def dense(*, width=8, outputs=3, stride=1):
    return Dense(width, outputs, stride)


def vector(*, width=8, outputs=3):
    return Vector(width, outputs)


def frames(*, width=8, outputs=4):
    return Frames(width, outputs)


def heads(*, width=8, outputs=2):
    return Heads(width, outputs)


def words(*, width=8, outputs=3):
    return Words(width, outputs)


def arrays_of(task, seed=0, count=COUNT):
    """Return items and targets that a tiny model can learn."""
    rng = np.random.default_rng(seed)
    if task in ("tokens", "language_modeling"):
        x = rng.integers(1, 12, (count, 8))
        y = x % 3 if task == "tokens" else (x * 5 + 1) % 12
        y[:, -1] = -100
        return x, y
    x = rng.integers(0, 60, (count, 1, SIZE, SIZE)).astype(np.uint8)
    if task == "ctc":
        return x, _texts(x, rng)
    rows, columns = rng.integers(3, SIZE - 3, (2, count))
    kinds = rng.integers(0, 2, count)
    for item, (row, column, kind) in enumerate(zip(rows, columns, kinds, strict=True)):
        x[item, 0, row - 2 : row + 3, column - 2 : column + 3] = 160 + 80 * kind
    return x, _targets(task, x, rows, columns, kinds)


def _targets(task, x, rows, columns, kinds):
    if task == "segmentation":
        mask = (x[:, 0] > 100).astype(np.uint8) + (x[:, 0] > 200)
        mask[:, 0] = 255
        return mask
    if task == "regression":
        return np.stack([300 + rows, columns / 10], axis=1).astype(np.float32)
    if task == "multi_label":
        y = np.stack([rows > SIZE // 2, columns > SIZE // 2, kinds > 0], axis=1).astype(np.int64)
        y[0, 0] = -1
        return y
    if task == "keypoint_heatmaps":
        points = np.stack([columns, rows, np.full(len(x), 2)], axis=1)
        other = np.stack([SIZE - 1 - columns, rows, kinds], axis=1)
        return np.stack([points, other], axis=1).astype(np.float32)
    if task == "detection":
        edges = [columns - 2, rows - 2, columns + 3, rows + 3, kinds]
        return np.stack(edges, axis=1).astype(np.float32)[:, None]
    if task == "embedding":
        return kinds + 2 * (rows > SIZE // 2)
    return kinds


def _texts(x, rng):
    """Draw texts of one to three characters into images: columns of different brightness."""
    texts = []
    for item in range(len(x)):
        places = rng.integers(0, len(ALPHABET), rng.integers(1, 4))
        for number, place in enumerate(places):
            x[item, 0, :, 5 * number + 1 : 5 * number + 4] = 110 + 60 * place
        texts.append("".join(ALPHABET[p] for p in places))
    return np.array(texts)
