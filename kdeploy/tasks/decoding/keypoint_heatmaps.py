"""Keypoints on the device: the highest place of each map, moved a quarter towards its neighbour."""

from __future__ import annotations

from typing import Any

import numpy as np


def points_of(maps: Any, size: Any) -> Any:
    """Return x, y in pixels of the input and the height of the peak, (N, points, 3) float32.

    A quarter of a cell towards the higher neighbour on each axis: Newell et al., ECCV 2016,
    arXiv:1603.06937. The centre of the first cell is at (stride - 1) / 2 pixels.
    """
    maps = np.asarray(maps, np.float32)
    count, num, height, width = maps.shape
    flat = maps.reshape(count, num, -1)
    best = flat.argmax(axis=-1)
    row, column = best // width, best % width
    shifted = []
    items, joints = np.ogrid[:count, :num]
    for place, cells, axis in ((column, width, 1), (row, height, 0)):
        # At the map's edge one neighbour is missing, and its sign would mean nothing.
        inner = (place > 0) & (place < cells - 1)
        lower, higher = np.clip(place - 1, 0, cells - 1), np.clip(place + 1, 0, cells - 1)
        one, other = ((row, p) if axis else (p, column) for p in (lower, higher))
        slope = maps[(items, joints, *other)] - maps[(items, joints, *one)]
        shifted.append(place + np.where(inner, 0.25 * np.sign(slope), 0))
    # Centres of pixels are at whole numbers: 0.5 to the corner, scale, and 0.5 back.
    x = (shifted[0] + 0.5) * (size[1] / width) - 0.5
    y = (shifted[1] + 0.5) * (size[0] / height) - 0.5
    return np.stack([x, y, flat.max(axis=-1)], axis=-1).astype(np.float32)


def decode(outputs: Any, task: Any) -> Any:
    """Return the points of one item: x, y in pixels of the input, and a score."""
    found = points_of(next(iter(outputs.values())), task["found"]["size"])[0]
    return {"points": [{"x": float(x), "y": float(y), "score": float(s)} for x, y, s in found]}


def disagreement(outputs: Any, recorded: Any, task: Any, atol: float) -> str:
    """Return the first point that lies elsewhere than recorded; "" where there is none.

    A cell beside it is near enough. Outputs may differ by `atol`: places that are lower than the
    recorded peak by less than twice that are as good.
    """
    del task
    own, expected = (np.asarray(next(iter(x.values())), np.float32)[0] for x in (outputs, recorded))
    width = own.shape[2]
    for point, (one, other) in enumerate(zip(own, expected)):  # noqa: B905 - Python 3.9
        place, peak = int(one.argmax()), int(other.argmax())
        steps = (abs(place // width - peak // width), abs(place % width - peak % width))
        if max(steps) > 1 and other.flat[peak] - other.flat[place] > 2 * atol:
            return f"point {point} is {max(steps)} cells away"
    return ""
