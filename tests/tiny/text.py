"""Networks of a few hundred parameters for token ids, and data that they can learn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.data.contract import NOT_COUNTED, Dataset, Preprocessing, Split

TOKENS, VOCABULARY, CLASSES = 6, 11, 3


class Classifier(nn.Module):
    """The mean of attended embeddings: (batch, tokens) -> (batch, classes)."""

    def __init__(self, width: int = 8, classes: int = CLASSES) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.value = nn.Linear(width, width)
        self.head = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        heads = (part[:, None] for part in (x, x, self.value(x)))  # one: the exporter wants them
        x = functional.scaled_dot_product_attention(*heads)[:, 0]
        return self.head(x.mean(1))


class Recurrent(nn.Module):
    """An LSTM of both directions: (batch, tokens) -> (batch, classes)."""

    def __init__(self, width: int = 8, classes: int = CLASSES) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.lstm = nn.LSTM(width, 4, batch_first=True, bidirectional=True)
        self.head = nn.Linear(8, classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.words(ids))[0].mean(1))


class Next(nn.Module):
    """A table of pairs: (batch, tokens) -> (batch, tokens, vocabulary)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.words(ids)))


class Tied(nn.Module):
    """An embedding, two layers, and a head that shares the embedding's table."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        return self.head(x + self.down(torch.relu(self.up(x))))


def classified(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return ids (N, tokens) and the class of each item: that of its most frequent third."""
    ids = np.random.default_rng(0).integers(1, VOCABULARY, (count, TOKENS), dtype=np.int32)
    labels = np.arange(count) % CLASSES
    ids[:, ::2] = 1 + 3 * labels[:, None]
    return ids, labels


def continued(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return ids (N, tokens) that count upwards, and the next ids; of the last one nobody knows."""
    ids = (np.arange(count)[:, None] + np.arange(TOKENS)) % VOCABULARY
    labels = (ids + 1) % VOCABULARY
    labels[:, -1] = NOT_COUNTED
    return ids.astype(np.int32), labels


def dataset(x: np.ndarray, y: np.ndarray, *, classes: int) -> Dataset:
    """Return a part as the train, validation and test part at once."""
    split = Split(x=x, y=y)
    preprocessing = Preprocessing(
        shape=(TOKENS,),
        classes=tuple(map(str, range(classes))),
        dtype="int64",
        vocabulary=VOCABULARY,
    )
    return Dataset(
        name="text",
        train=split,
        validation=split,
        test=split,
        preprocessing=preprocessing,
        fingerprint="0",
    )


def items() -> Dataset:
    """Return classified items."""
    return dataset(*classified(), classes=CLASSES)


def sequences() -> Dataset:
    """Return sequences with a label for every token."""
    return dataset(*continued(), classes=VOCABULARY)
