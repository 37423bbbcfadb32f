"""Mean and standard deviation of images, channel by channel, exact for bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.rows import pieces


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
