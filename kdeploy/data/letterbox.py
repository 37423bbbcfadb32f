"""Where an image lies after it was brought to another size, and how to come back from there.

The numbers that were applied are kept and used again: recomputed without rounding, the way back is
off by pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LETTERBOX_FILL = 114
"""The grey of the bars beside a letterboxed image, as the YOLO family has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """An image of `source` pixels, resized to `size` pixels, at `left` and `top` of the input."""

    source: tuple[int, int]
    """Height and width of the upright image."""
    size: tuple[int, int]
    """Height and width that it has in the input."""
    left: int = 0
    top: int = 0

    @classmethod
    def of(cls, source: Sequence[int], size: Sequence[int], *, letterbox: bool) -> Placement:
        """Return where an image lies in an input of `size` (height, width).

        A letterboxed image keeps its shape and stands in the middle, an odd pixel below or right
        of it; else it is stretched.
        """
        height, width = int(source[0]), int(source[1])
        if not letterbox:
            return cls(source=(height, width), size=(int(size[0]), int(size[1])))
        scale = min(size[0] / height, size[1] / width)
        # Half up, as C's `floor(x + 0.5)`: Python's `round` goes to even.
        pairs = zip((height, width), size, strict=True)
        new = [max(1, min(math.floor(n * scale + 0.5), int(whole))) for n, whole in pairs]
        top, left = ((whole - used) // 2 for whole, used in zip(size, new, strict=True))
        return cls(source=(height, width), size=(new[0], new[1]), left=left, top=top)

    def placed(self, boxes: NDArray[Any]) -> NDArray[np.float64]:
        """Return boxes (..., 4), x1 y1 x2 y2, or points (..., 2) of the image in the input."""
        scale, shift = self._scale_and_shift(boxes)
        placed: NDArray[np.float64] = np.asarray(boxes, np.float64) * scale + shift
        return placed

    def returned(self, boxes: NDArray[Any]) -> NDArray[np.float64]:
        """Return boxes or points of the input in pixels of the upright image."""
        scale, shift = self._scale_and_shift(boxes)
        returned: NDArray[np.float64] = (np.asarray(boxes, np.float64) - shift) / scale
        return returned

    def _scale_and_shift(self, boxes: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        times = np.shape(boxes)[-1] // 2
        scale = [self.size[1] / self.source[1], self.size[0] / self.source[0]]
        return np.tile(scale, times), np.tile([self.left, self.top], times)
