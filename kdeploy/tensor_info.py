"""An input or output of a model or a file: what all that describe one say of it.

Apart from preprocessing, which a measured process has no use for.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """An input or an output of a model: its name, its sizes, and the type of its numbers."""

    name: str
    shape: tuple[int | str, ...]
    """The batch first; a name, e.g. "batch", stands for a size that is open."""
    dtype: str
    """As numpy spells it, e.g. "float32"."""

    def __str__(self) -> str:
        return f"{self.name}={','.join(map(str, self.shape))}:{self.dtype}"
