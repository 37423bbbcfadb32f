"""Segmentation on the device: logits to class maps, and how much of the image each class takes."""

from __future__ import annotations

from typing import Any

import numpy as np

IGNORED, NO_CLASS = 255, 254
LEAST_SHARE = 0.995
"""Of the pixels, that keep the recorded class on another processor."""


def class_maps(logits: Any, size: Any) -> Any:
    """Return the class of each pixel, (N, *size) uint8, of logits (N, classes, height, width).

    Smaller maps are interpolated before a class is read; one channel is a class beside none. A
    pixel whose logits are no numbers is of class 254.
    """
    logits = resized(np.asarray(logits, np.float32), tuple(size))
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    best = logits.max(axis=1)  # NaN where any is
    return np.where(np.isfinite(best), logits.argmax(axis=1), NO_CLASS).astype(np.uint8)


def resized(maps: Any, size: Any) -> Any:
    """Return maps (N, C, height, width) at another size: bilinear, corners not aligned."""
    for axis, wanted in ((2, size[0]), (3, size[1])):
        have = maps.shape[axis]
        if have == wanted:
            continue
        # As torch's `interpolate(align_corners=False)`, so that the device reads what was trained.
        place = np.clip((np.arange(wanted) + 0.5) * (have / wanted) - 0.5, 0, have - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, have - 1)
        shape = [1] * maps.ndim
        shape[axis] = wanted
        share = (place - low).astype(np.float32).reshape(shape)
        maps = maps.take(low, axis) * (1 - share) + maps.take(high, axis) * share
    return maps


def decode(outputs: Any, task: Any) -> Any:
    """Return the map of one item, and the share of its pixels by class."""
    found = class_maps(next(iter(outputs.values())), task["found"]["size"])[0]
    names = task["found"]["classes"]
    share = {
        names[c] if c < len(names) else str(c): float((found == c).mean()) for c in np.unique(found)
    }
    return {"share": share, "mask": found.tolist()}


def disagreement(outputs: Any, recorded: Any, task: Any, atol: float) -> str:
    """Return how many pixels keep their recorded class, in words; "" where nearly all do.

    Outputs may differ by `atol`: pixels whose classes lie nearer than twice that are not counted.
    """
    size = tuple(task["found"]["size"])
    given = [np.asarray(next(iter(x.values())), np.float32) for x in (outputs, recorded)]
    own, expected = (class_maps(x, size)[0] for x in given)
    logits = resized(given[1], size)[0]
    if len(logits) == 1:
        logits = np.concatenate([np.zeros_like(logits), logits])
    at_own = np.take_along_axis(logits, np.minimum(own, len(logits) - 1)[None].astype(int), 0)[0]
    # As `argmax` reads them, other classes within the tolerance are as good.
    share = float(((own == expected) | (logits.max(0) - at_own <= 2 * atol)).mean())
    if share >= LEAST_SHARE:
        return ""
    return f"{100 * share:.2f} % of the pixels keep their class, at least {100 * LEAST_SHARE} shall"
