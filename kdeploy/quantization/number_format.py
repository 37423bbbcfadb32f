"""Number formats: how real numbers become 8-bit codes, `code = round(real / scale) + zero_point`.

The maths of scales and zero points, in float32 as a file stores them, without a graph around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Below this a float32 scale is a denormal, which runtimes flush to zero.
SMALLEST_SCALE = 2.0**-126


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberFormat:
    """A grid of codes. Symmetric formats have zero point 0 and as many steps on either side."""

    name: str
    bits: int = 8
    is_signed: bool
    is_symmetric: bool

    @property
    def qmin(self) -> int:
        return -(1 << self.bits - 1) if self.is_signed else 0

    @property
    def qmax(self) -> int:
        return (1 << self.bits - 1) - 1 if self.is_signed else (1 << self.bits) - 1

    def scale_and_zero_point(self, low: float, high: float) -> tuple[float, int]:
        """Return the encoding of the range; it is widened to hold zero, which stays exact.

        An affine range that starts at zero gets the lowest code as its zero point: a runtime can
        then drop the ReLU before it.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        if self.is_symmetric:
            return _scale(max(-low, high), self.qmax), 0
        scale = _scale(high - low, self.qmax - self.qmin)
        zero_point = self.qmin + round(-low / scale)
        return scale, int(np.clip(zero_point, self.qmin, self.qmax))

    def quantize(
        self, real: NDArray[np.float32], scale: float, zero_point: int
    ) -> NDArray[np.float32]:
        """Return the nearest numbers that the encoding can represent."""
        codes = np.rint(real / np.float32(scale)) + zero_point
        codes = np.clip(codes, self.qmin, self.qmax)
        return np.asarray((codes - zero_point) * np.float32(scale), np.float32)


def channel_scales(
    weight: NDArray[np.float32], number_format: NumberFormat, *, floor: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return one symmetric scale for each output channel (axis 0).

    Args:
        weight: (channels, ...).
        number_format: A symmetric format.
        floor: (channels,), the smallest scale that each channel may have, see `bias_floor`.
    """
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    scales = np.maximum(largest / np.float32(number_format.qmax), floor)
    return np.where(scales > SMALLEST_SCALE, scales, np.float32(1.0)).astype(np.float32)


def on_grid(
    weight: NDArray[np.float32], number_format: NumberFormat
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the codes of the weight (channels, ...), and the scales (channels, 1, ...) of them."""
    scales = channel_scales(weight, number_format, floor=np.zeros(len(weight), np.float32))
    scales = scales.reshape(-1, *(1 for _ in weight.shape[1:]))
    codes = np.rint(weight / scales)
    return np.clip(codes, -number_format.qmax, number_format.qmax), scales


def bias_floor(bias: NDArray[np.float32], input_scale: float) -> NDArray[np.float32]:
    """Return the smallest weight scales with which the bias fits into 32 bits.

    Integer kernels add the bias as int32 in steps of input scale x weight scale. A channel whose
    weights have died while its bias lives would overflow it; one bit is left for the sum.
    """
    return (np.abs(bias) / np.float32(2**30) / np.float32(input_scale)).astype(np.float32)


def _scale(span: float, steps: int) -> float:
    scale = float(np.float32(span) / np.float32(steps))
    return scale if scale > SMALLEST_SCALE else 1.0


UINT8 = NumberFormat(name="uint8", is_signed=False, is_symmetric=False)
INT8 = NumberFormat(name="int8", is_signed=True, is_symmetric=True)
INT8_AFFINE = NumberFormat(name="int8_affine", is_signed=True, is_symmetric=False)
INT7 = NumberFormat(name="int7", bits=7, is_signed=True, is_symmetric=True)
