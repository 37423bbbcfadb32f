"""Boxes as data have them: checked against their picture, mended where that is plain, padded.

A target of detection is (objects, 5): x1, y1, x2, y2 in pixels of the input, and the class. Rows
that only fill up have the class -1; what stands for a crowd, which is neither learned nor counted
as missed, has -2 less its class.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.letterbox import Placement
from kdeploy.errors import DataError

FILLER = -1
WIDTH = 5  # x, y, x, y, class
SLACK_PIXELS = 1.0
"""So far a box may reach over its picture: annotation tools round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One annotated object, in pixels of the upright picture."""

    corners: tuple[float, float, float, float]
    label: int
    where: str
    """The file and the line or annotation, for messages."""
    is_crowd: bool = False


@dataclass(slots=True)
class Repairs:
    """What was mended, and where first; the notes tell it."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, where: str) -> None:
        """Count one repair."""
        self.counts[what] += 1
        self.first.setdefault(what, where)

    def sentences(self) -> tuple[str, ...]:
        """Return one sentence for each kind of repair."""
        return tuple(
            f"{count} {what} (the first: {self.first[what]})" for what, count in self.counts.items()
        )


def checked(box: Box, size: tuple[int, int], repairs: Repairs) -> Box | None:
    """Return the box inside of its picture; None for one without area, which is left out.

    Args:
        box: As annotated.
        size: Height and width of the upright picture.
        repairs: Gains what was mended.

    Raises:
        DataError: it is no box of this picture.
    """
    x1, y1, x2, y2 = box.corners
    height, width = size
    if not all(map(math.isfinite, box.corners)):
        raise DataError(f"{box.where}: the box {box.corners} is not finite", hint=_MEND)
    if x2 < x1 or y2 < y1:
        raise DataError(
            f"{box.where}: the box has a width of {x2 - x1:g} and a height of {y2 - y1:g}",
            hint=_MEND,
        )
    outside = max(-x1, -y1, x2 - width, y2 - height)
    if outside > SLACK_PIXELS:
        turned = max(x2 - height, y2 - width) <= SLACK_PIXELS
        raise DataError(
            f"{box.where}: the box {_corners(box)} reaches {outside:g} pixels over its picture of "
            f"{width} x {height}",
            hint="it fits the picture turned by a quarter: annotate it upright, as its EXIF "
            "orientation says"
            if turned
            else _MEND,
        )
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if outside > 0:
        repairs.add("boxes reached up to a pixel over their picture and were cut", box.where)
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        repairs.add("boxes without area were left out", box.where)
        return None
    return Box(corners=inside, label=box.label, where=box.where, is_crowd=box.is_crowd)


def padded(boxes: Sequence[Sequence[Box]], places: Sequence[Placement]) -> NDArray[np.float32]:
    """Return the boxes of all pictures in their inputs, (pictures, objects, 5).

    Args:
        boxes: Of each picture.
        places: Where each picture lies in its input.
    """
    longest = max(map(len, boxes), default=0)
    found = np.full((len(boxes), max(longest, 1), WIDTH), FILLER, np.float32)
    for row, (own, place) in enumerate(zip(boxes, places, strict=True)):
        if own:
            found[row, : len(own), :4] = place.placed(np.array([box.corners for box in own]))
            labels = [-2 - box.label if box.is_crowd else box.label for box in own]
            found[row, : len(own), 4] = labels
    return found


def _corners(box: Box) -> str:
    return ", ".join(f"{value:g}" for value in box.corners)


_MEND = "mend or remove this annotation"
