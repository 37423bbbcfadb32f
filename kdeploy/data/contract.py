"""What a dataset is: parts with labels, and the one preprocessing that everything uses.

A dataset is a function `(*, own parameters) -> Parts`, decorated with `@dataset`. It uses numpy
only, so that a device without torch can load it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kdeploy.registry import register

Loaded = TypeVar("Loaded", bound=Callable[..., "Parts"])


def dataset() -> Callable[[Loaded], Loaded]:
    """Return the decorator of a dataset."""

    def mark(function: Loaded) -> Loaded:
        return register("dataset")(function)

    return mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a stored item becomes the model's input: `(x * scale - mean) / std` per channel."""

    shape: tuple[int, ...]
    """Of one input as the model sees it: (channels, height, width) or (channels, length)."""
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    resize: str = ""
    """How a raw image is brought to `shape`: "bilinear" (Pillow), or "" for not at all."""
    classes: tuple[str, ...] = ()

    def apply(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Return the model's input (N, *shape) as float32 from stored items (N, *shape)."""
        per_channel = (-1, *(1 for _ in self.shape[1:]))
        mean = np.asarray(self.mean, np.float32).reshape(per_channel)
        std = np.asarray(self.std, np.float32).reshape(per_channel)
        return (stored.astype(np.float32) * np.float32(self.scale) - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them; `from_dict` reads them back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Preprocessing:
        """Return the value that `to_dict` wrote."""
        own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Items as stored (N, *shape), uint8 or float32, and labels (N,).

    `x` may be larger than memory: then it is memory-mapped, or a `kdeploy.data.rows.Rows` of such
    a file. Index it (`x[a:b]`, `x[rows]`) rather than take it whole.
    """

    x: NDArray[Any]
    y: NDArray[np.int64]
    origin: str = ""
    """The file or folder that the items come from, for messages."""

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a dataset function returns; the validation part is split off train later."""

    train: Split
    test: Split
    preprocessing: Preprocessing
    licence: str = ""
    source: str = ""
    fingerprint: str = ""
    """Of all contents, where the dataset knows it already; else the loader reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Loaded data. `test` is touched only for reported numbers."""

    name: str
    train: Split
    validation: Split
    test: Split
    preprocessing: Preprocessing
    fingerprint: str
    augment: tuple[str, ...] = ()
    licence: str = ""
    source: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.preprocessing.classes)
