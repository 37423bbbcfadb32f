"""Weights in blocks of 4 or 8 bits: a scale and a zero point for each block, and the nearest codes.

Symmetric blocks take their scale from the entry of the largest magnitude with its sign, so that
one end of the 2^bits levels is exact (as ONNX Runtime and GGUF's Q4_0 do). A search shrinks the
range as long as the error, weighted by the mean squares of the inputs, falls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from kdeploy.errors import ModelError
from kdeploy.torch_module.block_quantized import packed

# From the whole range down to 0.6 of it.
SHRINKS = tuple(1.0 - 0.025 * step for step in range(17))
SMALLEST_BLOCK = 16
"""That MatMulNBits has."""
LARGEST_HALF, SMALLEST_HALF = 65504.0, 2.0**-24
AT_A_TIME = 2**16
"""Numbers of a weight whose scales are searched together."""
LOOKED_AT = 1024
"""Blocks of a weight, spread evenly, that tell whether it lies on a grid."""
DISTINCT = 1e-6
"""Of a block's range: numbers that are closer are one, up to float32's rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFormat:
    """How a weight is written."""

    bits: int = 4
    """Of a code: 4 or 8."""
    block_size: int = 32
    """Inputs that share a scale."""
    symmetric: bool = True
    """Whether the zero point is 2^(bits-1) in every block."""

    def for_columns(self, columns: int) -> BlockFormat:
        """Return the format with the largest blocks, up to its own, that divide so many inputs.

        Where not even 16 does, a short row is one block, and the last block of a long one ragged.
        """
        size = self.block_size
        while size > SMALLEST_BLOCK and columns % size:
            size //= 2
        if columns % size:
            size = self.block_size
            if columns < size:
                size = max(SMALLEST_BLOCK, 2 ** (columns - 1).bit_length())
        return replace(self, block_size=size)

    @property
    def highest(self) -> int:
        return int(2**self.bits - 1)

    @property
    def centre(self) -> int:
        return int(2 ** (self.bits - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockGrid:
    """The levels of each block of a weight (rows, columns)."""

    form: BlockFormat
    scales: Tensor
    """(rows, blocks), float32 numbers that float16 has too; some negative."""
    zero_points: Tensor
    """(rows, blocks), float32 whole numbers."""

    def columns(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return scales and zero points (rows, n) of the columns with these numbers."""
        blocks = torch.div(index, self.form.block_size, rounding_mode="floor")
        return self.scales[:, blocks], self.zero_points[:, blocks]

    def codes_of(self, weight: Tensor) -> Tensor:
        """Return the nearest codes (rows, columns) of a weight, float32 whole numbers."""
        scales, points = self.columns(torch.arange(weight.shape[1]))
        return nearest(weight, scales, points, self.form)

    def real(self, codes: Tensor) -> Tensor:
        """Return the numbers that codes (rows, columns) stand for."""
        scales, points = self.columns(torch.arange(codes.shape[1]))
        return (codes - points) * scales

    def stored(self, codes: Tensor) -> dict[str, Tensor]:
        """Return codes (rows, columns) and grid as `BlockQuantizedLinear` keeps them."""
        form = self.form
        filled = self.zero_points.repeat_interleave(form.block_size, 1)
        filled[:, : codes.shape[1]] = codes
        blocks = filled.reshape(len(codes), -1, form.block_size)
        tensors = {"codes": packed(blocks, form.bits), "scales": self.scales.half()}
        if not form.symmetric:
            tensors["zero_points"] = packed(self.zero_points, form.bits)
        return tensors


def nearest(weight: Tensor, scales: Tensor, points: Tensor, form: BlockFormat) -> Tensor:
    """Return the codes that are nearest to a weight, of the same shape."""
    return (weight / scales + points).round().clamp(0, form.highest)


def grid_of(weight: Tensor, form: BlockFormat, importance: Tensor | None = None) -> BlockGrid:
    """Return the levels for a weight (rows, columns).

    Args:
        weight: float32.
        form: Bits and blocks.
        importance: (columns,) mean squares of the inputs; with them the ranges are searched for
            the least weighted error, without them each covers its block.

    Raises:
        ModelError: a weight is no number, or its scale is beyond float16.
    """
    blocks = _blocks(weight, form.block_size)
    if not bool(torch.isfinite(blocks).all()):
        raise ModelError(
            "a weight is NaN or infinite, and no code stands for that",
            hint="train the model anew, or load weights that are whole",
        )
    if importance is None:
        scales, points = _scaled(blocks, form, 1.0)
        return BlockGrid(form=form, scales=scales, zero_points=points)
    weights = _blocks(importance.reshape(1, -1).float(), form.block_size)
    # A few rows at a time: what is computed on the way stays in the processor's cache.
    pieces = torch.split(blocks, max(1, AT_A_TIME // weight.shape[1]))
    found = [_searched(piece, form, weights) for piece in pieces]
    scales, points = (torch.cat(parts) for parts in zip(*found, strict=True))
    return BlockGrid(form=form, scales=scales, zero_points=points)


def _searched(blocks: Tensor, form: BlockFormat, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return scales and zero points of the range, of those tried, with the least error."""
    best = _scaled(blocks, form, 1.0)
    least = _error(blocks, *best, form, weights)
    scales, points = (tensor.clone() for tensor in best)
    for shrink in SHRINKS[1:]:
        tried = _scaled(blocks, form, shrink)
        error = _error(blocks, *tried, form, weights)
        is_better = error < least
        least = torch.where(is_better, error, least)
        scales, points = (
            torch.where(is_better, new, old)
            for new, old in zip(tried, (scales, points), strict=True)
        )
    return scales, points


def lies_on_grid(weight: Tensor, *, bits: int = 4, block_size: int = 32) -> bool:
    """Return whether every block of a weight has no more than 2^bits evenly spaced values.

    So do weights that come out of a file of so few bits: to round them again adds to that error.
    """
    if weight.shape[1] % block_size:
        return False
    blocks = _blocks(weight.detach().float().cpu(), block_size).flatten(0, 1)
    blocks = blocks[:: max(1, len(blocks) // LOOKED_AT)]
    ordered = blocks.sort(1).values
    spread = (ordered[:, -1] - ordered[:, 0]).clamp(min=1e-30)
    gaps = ordered.diff(dim=1) / spread[:, None]
    gaps[gaps < 4 * DISTINCT] = 0
    if int((gaps > 0).sum(1).max()) >= 2**bits:
        return False
    # All differences are multiples of the range / steps for one number of steps below 2^bits.
    is_even = torch.zeros(len(gaps), dtype=torch.bool)
    for steps in range(1, 2**bits):
        distance = (gaps * steps - (gaps * steps).round()).abs().amax(1)
        is_even |= distance < 1e-3
    return bool(is_even.float().mean() > 0.99)


def _blocks(weight: Tensor, block_size: int) -> Tensor:
    """Return (rows, blocks, block_size), the last block filled with zeros."""
    missing = -weight.shape[1] % block_size
    return F.pad(weight, (0, missing)).reshape(len(weight), -1, block_size)


def _scaled(blocks: Tensor, form: BlockFormat, shrink: float) -> tuple[Tensor, Tensor]:
    """Return scales and zero points (rows, blocks) for a share of each block's range."""
    if form.symmetric:
        place = blocks.abs().argmax(-1, keepdim=True)
        scales = float16_scales(blocks.gather(-1, place).squeeze(-1) * shrink / -form.centre)
        return scales, torch.full_like(scales, float(form.centre))
    low = blocks.amin(-1).clamp(max=0) * shrink
    high = blocks.amax(-1).clamp(min=0) * shrink
    scales = float16_scales((high - low) / form.highest)
    return scales, (-low / scales).round().clamp(0, form.highest)


def float16_scales(scales: Tensor) -> Tensor:
    """Return the nearest scales of float16 that are not zero."""
    if bool((scales.abs() > LARGEST_HALF).any()):
        raise ModelError(
            f"a weight needs a scale of {float(scales.abs().max()):.3g}, beyond float16",
            hint="weights of such a size belong into a norm before the layer",
        )
    rounded = scales.half().float()
    tiny = torch.where(scales < 0, -SMALLEST_HALF, SMALLEST_HALF)
    return torch.where(rounded == 0, tiny, rounded)


def _error(
    blocks: Tensor, scales: Tensor, points: Tensor, form: BlockFormat, weights: Tensor
) -> Tensor:
    """Return the weighted squared error of the nearest codes, (rows, blocks)."""
    wide, centre = scales.unsqueeze(-1), points.unsqueeze(-1)
    real = (nearest(blocks, wide, centre, form) - centre) * wide
    return ((blocks - real).square() * weights).sum(-1)
