"""Networks of several inputs, and items for them whose class no input tells alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

TOKENS, VOCABULARY = 8, 20


class Pictured(nn.Module):
    """Classes of an image and a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.embed = nn.Linear(4, width)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.bn1(self.conv1(image)))))
        y = torch.relu(self.embed(vector))
        return self.head(torch.cat([x.mean((2, 3)), y], dim=1))


class Masked(nn.Module):
    """Classes of token ids, of which a mask says how many there are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.unsqueeze(-1).float()
        x = self.embedding(input_ids)
        x = x + self.down(torch.relu(self.up(x)))
        return self.head((x * mask).sum(1) / mask.sum(1))


def pictured(width: int = 8) -> nn.Module:
    return Pictured(width)


def masked(width: int = 8) -> nn.Module:
    return Masked(width)


def pictured_items(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return `image`, `vector` and `y`, a class that both tell something of."""
    random = np.random.default_rng(seed)
    y = random.integers(3, size=count)
    image = random.normal(size=(count, 1, 8, 8)) + 0.7 * (y == 1)[:, None, None, None]
    vector = random.normal(size=(count, 4)) + 2.0 * (y == 2)[:, None]
    return {"image": image.astype(np.float32), "vector": vector.astype(np.float32), "y": y}


def masked_items(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return `input_ids`, `attention_mask` and `y`: whether the ids before the end are large."""
    random = np.random.default_rng(seed)
    lengths = random.integers(2, TOKENS + 1, size=count)
    mask = (np.arange(TOKENS) < lengths[:, None]).astype(np.int64)
    ids = random.integers(1, VOCABULARY, size=(count, TOKENS))
    y = ((ids * mask).sum(1) / lengths > VOCABULARY / 2).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask, "y": y}
