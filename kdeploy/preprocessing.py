"""How a stored item becomes what a model takes: numbers to normalise, or token ids as they are.

Numpy only: training, export, measurement and packaging share it, and a device has no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from kdeploy.named_arrays import NamedArrays

if TYPE_CHECKING:
    from typing import TypeAlias  # devices may have Python 3.9, which lacks it

MOST_NUMBERS = 2**26
"""Of answers to items that are asked at once: 256 MiB of float32."""
Inputs: TypeAlias = "NDArray[np.float32] | NDArray[np.int64]"
"""What a model takes: (batch, *shape) of floats, or (batch, tokens) of token ids; several by name
are `NamedArrays`, which stand in for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a stored item becomes the model's input.

    Floats are `(x * scale - mean) / std` per channel. Token ids (`dtype` "int64") stay as they
    are; `scale`, `mean`, `std` and `resize` have no meaning for them.
    """

    shape: tuple[int, ...]
    """Of one input as the model sees it: (channels, height, width), (channels, length),
    (channels, frames, height, width) or (tokens,)."""
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    resize: str = ""
    """How a raw image is brought to `shape`: "bilinear" (Pillow), "letterbox" (the same, but it
    keeps its shape, in the middle of grey bars), or "" for not at all."""
    classes: tuple[str, ...] = ()
    dtype: Literal["float32", "int64"] = "float32"
    """Of the model's input; "int64" means token ids."""
    vocabulary: int = 0
    """How many token ids there are, counted from 0; 0 for floats."""
    background: tuple[int, ...] = ()
    """Red, green and blue, 0..255, that transparent pixels of a raw image are laid on; () where
    the data had no images with transparency."""
    inputs: Mapping[str, Preprocessing] = field(default_factory=dict)
    """Of each input, where an item has several: then `shape` is (), and what else says how an
    array becomes an input stands there. Integers of any meaning are as token ids are."""

    @property
    def is_tokens(self) -> bool:
        return self.dtype == "int64"

    @property
    def image(self) -> str | None:
        """The name of the only input that is an image, where an item has several; None: none is."""
        found = [name for name, one in self.inputs.items() if len(one.shape) == 3]
        return found[0] if len(found) == 1 and not self.inputs[found[0]].is_tokens else None

    @property
    def num_tokens(self) -> int | None:
        """How many token ids an item has, of several inputs the first of ids; None: no ids."""
        inputs = self.inputs.values() if self.inputs else (self,)
        ids = (one for one in inputs if one.is_tokens and len(one.shape) == 1)
        return next((one.shape[0] for one in ids), None)

    def told_shape(self) -> str:
        """Return the shape of an item, of several inputs of each, for messages."""
        shapes = (f"`{name}` {one.shape}" for name, one in self.inputs.items())
        return ", ".join(shapes) or str(self.shape)

    def at_once(self, most: int) -> int:
        """Return how many of `most` items are asked at once, so that their answers fit memory.

        Fewer where the answer is a number for each entry of a vocabulary at each token.
        """
        if not self.vocabulary or self.classes:
            return most
        return max(1, min(most, MOST_NUMBERS // (self.shape[0] * self.vocabulary)))

    def num_parts(self, batch_size: int) -> int:
        """Return into how many parts a step of so many items is cut, for the same reason."""
        return -(-batch_size // self.at_once(batch_size))

    def apply(self, stored: NDArray[Any]) -> Inputs:
        """Return the model's input (N, *shape) from stored items (N, *shape)."""
        if self.inputs:
            return self._each(lambda name, one: one.apply(_named(stored).arrays[name]))
        if self.is_tokens:
            return stored.astype(np.int64)
        per_channel = (-1, *(1 for _ in self.shape[1:]))
        mean = np.asarray(self.mean, np.float32).reshape(per_channel)
        std = np.asarray(self.std, np.float32).reshape(per_channel)
        return (stored.astype(np.float32) * np.float32(self.scale) - mean) / std

    def example(self, count: int) -> Inputs:
        """Return inputs (count, *shape) that any model for these items takes: to see shapes."""
        if self.inputs:
            return self._each(lambda _, one: one.example(count))
        if self.is_tokens:
            # Not id 0, which is padding by custom: an item without a token has no mean.
            return np.full((count, *self.shape), min(1, self.vocabulary - 1), np.int64)
        return np.zeros((count, *self.shape), np.float32)

    def random(self, count: int, generator: np.random.Generator) -> Inputs:
        """Return inputs (count, *shape): standard normal numbers, or any of the token ids."""
        if self.inputs:
            return self._each(lambda _, one: one.random(count, generator))
        size = (count, *self.shape)
        if self.is_tokens:
            return generator.integers(self.vocabulary, size=size)
        return generator.standard_normal(size, dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them; `from_dict` reads them back."""
        known = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        known["inputs"] = {name: one.to_dict() for name, one in self.inputs.items()}
        # What says nothing is left out: fingerprints and ids stay what they were before it existed.
        silent = (() if self.is_tokens else _OF_TOKENS) + (() if self.background else _OF_IMAGES)
        silent += () if self.inputs else _OF_SEVERAL
        return {k: known[k] for k in known if k not in silent}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Preprocessing:
        """Return the value that `to_dict` wrote."""
        own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        inputs = {name: cls.from_dict(one) for name, one in own.pop("inputs", {}).items()}
        return cls(**own, inputs=inputs)

    def _each(self, make: Callable[[str, Preprocessing], Inputs]) -> Inputs:
        arrays = NamedArrays({name: make(name, one) for name, one in self.inputs.items()})
        return cast("Inputs", arrays)


def _named(stored: object) -> NamedArrays:
    assert isinstance(stored, NamedArrays), "items of several inputs have names"
    return stored


_OF_TOKENS = ("dtype", "vocabulary")
_OF_IMAGES = ("background",)
_OF_SEVERAL = ("inputs",)
