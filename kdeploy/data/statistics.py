"""Mean and standard deviation of items by channel: exact for bytes, in pieces for floats."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.rows import pieces
from kdeploy.preprocessing import Preprocessing

DIGITS = 6
"""Significant ones of a float's statistics: how sums are ordered does not show in them."""
NORMAL = 0.05
"""Means this near to 0 beside deviations this near to 1 are left alone."""


def channel_statistics(x: NDArray[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std per channel of uint8 images (N, C, ...), in units of 255.

    Counted as a histogram of whole numbers, so that no order of summation can change the result;
    rounded to four digits. A constant channel has std 1, which leaves it finite.
    """
    counts = np.zeros((x.shape[1], 256), dtype=np.int64)
    for _, piece in pieces(x):
        for channel, row in enumerate(counts):
            row += np.bincount(piece[:, channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))
    return (
        tuple(round(float(m), 4) for m in mean),
        tuple(round(float(s), 4) or 1.0 for s in std),
    )


def normalized_by(x: NDArray[Any], preprocessing: Preprocessing) -> Preprocessing:
    """Return the preprocessing with mean and std, per channel, of items as stored.

    It is returned as it was where it subtracts or divides already, for token ids, and for items
    that are normalised as they are stored.

    Args:
        x: Items (N, C, ...), uint8 or float32; may be mapped from a file.
        preprocessing: Theirs; the statistics are of values after its scale.
    """
    is_plain = set(preprocessing.mean) == {0.0} and set(preprocessing.std) == {1.0}
    if preprocessing.is_tokens or not is_plain or not len(x) or x.ndim < 2:
        return preprocessing
    if x.dtype == np.uint8:
        to_units = 255 * preprocessing.scale
        found = channel_statistics(x)
        mean = tuple(_rounded(m * to_units) for m in found[0])
        std = tuple(_rounded(s * to_units) for s in found[1])
    else:
        mean, std = _of_floats(x, preprocessing.scale)
    if all(abs(m) < NORMAL for m in mean) and all(abs(s - 1) < NORMAL for s in std):
        return preprocessing
    return replace(preprocessing, mean=mean, std=std)


def _of_floats(x: NDArray[Any], scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std per channel; the deviation is summed in a second pass, from the mean."""
    axes = (0, *range(2, x.ndim))
    count = len(x) * math.prod(x.shape[2:])
    mean = sum(piece.sum(axis=axes, dtype=np.float64) for _, piece in pieces(x)) / count
    aligned = np.reshape(mean, (-1, *(1 for _ in x.shape[2:])))
    square = sum(  # mean of squares less squared mean would cancel
        ((piece.astype(np.float64) - aligned) ** 2).sum(axis=axes) for _, piece in pieces(x)
    )
    std = np.sqrt(square / count)
    return (
        tuple(_rounded(float(m) * scale) for m in mean),
        tuple(_rounded(float(s) * scale) or 1.0 for s in std),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
