"""What a dataset is: parts with labels, and the one preprocessing that everything uses.

A dataset is a function `(*, own parameters) -> Parts`, decorated with `@dataset`. It uses numpy
only, so that a device without torch can load it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kdeploy.preprocessing import Preprocessing
from kdeploy.registration import register

__all__ = ["NOT_COUNTED", "Dataset", "Parts", "Preprocessing", "Split", "dataset"]

NOT_COUNTED = -100
"""The label of a token that is neither learned nor judged, as torch's cross-entropy has it."""
Loaded = TypeVar("Loaded", bound=Callable[..., "Parts"])


def dataset() -> Callable[[Loaded], Loaded]:
    """Return the decorator of a dataset."""

    def mark(function: Loaded) -> Loaded:
        return register("dataset")(function)

    return mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Items as stored (N, *shape), uint8 or float32, and labels (N,); or token ids (N, tokens).

    The ids are int32 or int64; their labels are (N,) classes of whole items, or (N, tokens), a
    class for every token (`NOT_COUNTED`: none).

    `x` may be larger than memory: then it is memory-mapped, or a `kdeploy.data.rows.Rows` of such
    a file. Index it (`x[a:b]`, `x[rows]`) rather than take it whole.
    """

    x: NDArray[Any]
    y: NDArray[np.int64]
    origin: str = ""
    """The file or folder that the items come from, for messages."""

    @property
    def has_token_labels(self) -> bool:
        return self.y.ndim == 2

    @property
    def is_labelled(self) -> bool:
        """Whether any item, or token, has a class: else nothing can be trained or judged."""
        return bool((self.y != NOT_COUNTED).any())

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a dataset function returns."""

    train: Split
    test: Split
    preprocessing: Preprocessing
    validation: Split | None = None
    """None: it is split off train later."""
    unlabelled: NDArray[Any] | None = None
    """Further items, of the same shape and type, that INT8 is calibrated on; None: train's."""
    licence: str = ""
    source: str = ""
    fingerprint: str = ""
    """Of all contents, where the dataset knows it already; else the loader reads them."""
    notes: tuple[str, ...] = ()
    """What people should know: what was left out, converted or laid on something."""

    def named(self) -> list[tuple[str, Split]]:
        """Return all parts with their names."""
        named = [("train", self.train), ("test", self.test), ("validation", self.validation)]
        return [(name, split) for name, split in named if split is not None]


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
    notes: tuple[str, ...] = ()
    """What people should know of it, a sentence each."""
    unlabelled: NDArray[Any] | None = None
    """Items to calibrate on in place of those of train."""
    is_validation_given: bool = False
    """Whether the validation part came with the data; else it was split off train."""

    @property
    def num_classes(self) -> int:
        return len(self.preprocessing.classes)
