"""The data of a pair as a recipe names them, and as networks get them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.shared.pair_data import data_section

Parts = Mapping[str, tuple[Tensor, Tensor]]


def section_of(name: str, folder: Path) -> dict[str, Any]:
    """Return a recipe's `data`; teachers come with weights, so what they know is said."""
    section: dict[str, Any] = data_section(name, folder)
    found = _statistics(name, folder)
    if found is None:
        return section
    mean, std = found
    return {**section, "mean": mean.flatten().tolist(), "std": std.flatten().tolist()}


def preprocessed(name: str, folder: Path) -> Parts:
    """Return train and test as networks get them."""
    parts = _read(name, folder)
    found = _statistics(name, folder)
    if found is None:
        return parts
    mean, std = found
    return {part: ((x - mean) / std, y) for part, (x, y) in parts.items()}


def _statistics(name: str, folder: Path) -> tuple[Tensor, Tensor] | None:
    """Return mean and deviation of the training part, channel by channel; of token ids nothing."""
    x, _ = _read(name, folder)["train"]
    if not x.is_floating_point():
        return None
    others = (0, *range(2, x.ndim))
    return x.mean(others, keepdim=True), x.std(others, keepdim=True)


def _read(name: str, folder: Path) -> Parts:
    files = data_section(name, folder)
    parts = {}
    for part in ("train", "test"):
        with np.load(files[part]) as arrays:
            x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
        parts[part] = (x.float() / 255 if x.dtype == torch.uint8 else x, y)
    return parts
