"""One Triton kernel for integer layers: an implicit matrix product with its epilogue fused.

Each block of outputs walks over kernel positions and input channels, reads int8 codes straight
from the images (no im2col copy), sums on the Tensor Cores in 32 bits, and writes the next layer's
codes. After the implicit GEMM of NVIDIA's CUTLASS and Triton's tutorial on matrix products,
https://triton-lang.org/main/getting-started/tutorials/03-matrix-multiplication.html.
"""

# Parameters of a Triton kernel have no Python types.
# ruff: noqa: ANN001
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdeploy.kernels.int8_layers import IntegerLayer

# Adding and subtracting 1.5 * 2^23 rounds a small float32 to the nearest integer, ties to even.
ROUNDER = tl.constexpr(12582912.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """How much one program computes: positions x outputs, so many channels a step."""

    positions: int
    outputs: int
    channels: int
    num_warps: int
    num_stages: int

    def __str__(self) -> str:
        return f"triton {self.positions}x{self.outputs}x{self.channels}"


TILES = (
    Tile(positions=128, outputs=128, channels=64, num_warps=8, num_stages=3),
    Tile(positions=128, outputs=128, channels=128, num_warps=8, num_stages=3),
    Tile(positions=128, outputs=64, channels=64, num_warps=4, num_stages=4),
    Tile(positions=64, outputs=64, channels=64, num_warps=4, num_stages=4),
    Tile(positions=32, outputs=64, channels=128, num_warps=4, num_stages=4),
    Tile(positions=16, outputs=32, channels=128, num_warps=2, num_stages=5),
)


class TritonProduct:
    """The kernel for one layer in tiles of one size."""

    def __init__(self, layer: IntegerLayer, tile: Tile) -> None:
        self._layer, self._tile = layer, tile

    def __call__(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Return the layer's output (batch, height, width, outputs)."""
        layer, tile, window = self._layer, self._tile, self._layer.window
        epilogue, outputs = layer.epilogue, len(layer.rows)
        (_, height, width, inputs), (high, wide) = x.shape, window.outputs(x.shape[1:3])
        type_ = epilogue.real_type if epilogue.code_scale is None else torch.int8
        out = torch.empty((len(x), high, wide, outputs), dtype=type_, device=x.device)
        positions = len(x) * high * wide
        blocks = triton.cdiv(positions, tile.positions) * triton.cdiv(outputs, tile.outputs)
        _integer_product[(blocks,)](
            *(x, layer.rows, layer.scales, layer.bias, out if skip is None else skip, out),
            *(positions, outputs, inputs, height, width, high, wide),
            *(*window.stride, *window.padding, *window.dilation),
            *(epilogue.skip_scale or 0.0, 1 / (epilogue.code_scale or 1.0)),
            KERNEL_Y=window.kernel[0],
            KERNEL_X=window.kernel[1],
            HAS_SKIP=skip is not None,
            HAS_RELU=epilogue.has_relu,
            TO_CODES=epilogue.code_scale is not None,
            POSITIONS=tile.positions,
            OUTPUTS=tile.outputs,
            CHANNELS=tile.channels,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
        return out


# Sizes that change with the image or the batch must not each compile a kernel of their own.
@triton.jit(
    do_not_specialize=[
        *("positions", "height", "width", "high", "wide", "stride_y", "stride_x"),
        *("padding_y", "padding_x", "dilation_y", "dilation_x"),
    ]
)
def _integer_product(
    x_pointer,
    rows_pointer,
    scales_pointer,
    bias_pointer,
    skip_pointer,
    out_pointer,
    positions,
    outputs,
    inputs,
    height,
    width,
    high,
    wide,
    stride_y,
    stride_x,
    padding_y,
    padding_x,
    dilation_y,
    dilation_x,
    skip_scale,
    codes_a_unit,
    KERNEL_Y: tl.constexpr,
    KERNEL_X: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    HAS_RELU: tl.constexpr,
    TO_CODES: tl.constexpr,
    POSITIONS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Compute one block of positions x outputs; see `TritonProduct`."""
    # Neighbours in launch order share their positions, which are the larger read.
    blocks = tl.cdiv(outputs, OUTPUTS)
    position = (tl.program_id(0) // blocks) * POSITIONS + tl.arange(0, POSITIONS)
    output = (tl.program_id(0) % blocks) * OUTPUTS + tl.arange(0, OUTPUTS)
    channel = tl.arange(0, CHANNELS)
    image = (position // (high * wide)).to(tl.int64)
    y = (position // wide) % high * stride_y - padding_y
    x = position % wide * stride_x - padding_x
    is_position, is_output = position < positions, output < outputs
    sums = tl.zeros((POSITIONS, OUTPUTS), dtype=tl.int32)
    steps = tl.cdiv(inputs, CHANNELS)
    # One loop over both, so that loads of the next step overlap this one's product throughout.
    for step in range(KERNEL_Y * KERNEL_X * steps):
        tap, first = step // steps, step % steps * CHANNELS
        tap_y, tap_x = y + tap // KERNEL_X * dilation_y, x + tap % KERNEL_X * dilation_x
        is_inside = is_position & (tap_y >= 0) & (tap_y < height) & (tap_x >= 0) & (tap_x < width)
        is_channel = first + channel < inputs
        read = x_pointer + ((image * height + tap_y) * width + tap_x) * inputs + first
        codes = tl.load(
            read[:, None] + channel[None, :],
            mask=is_inside[:, None] & is_channel[None, :],
            other=0,
        )
        row = rows_pointer + (output * KERNEL_Y * KERNEL_X + tap) * inputs + first
        weights = tl.load(
            row[None, :] + channel[:, None], mask=is_output[None, :] & is_channel[:, None], other=0
        )
        sums = tl.dot(codes, weights, sums, out_dtype=tl.int32)
    scales = tl.load(scales_pointer + output, mask=is_output, other=0.0)
    bias = tl.load(bias_pointer + output, mask=is_output, other=0.0)
    real = sums.to(tl.float32) * scales[None, :] + bias[None, :]
    place = position.to(tl.int64)[:, None] * outputs + output[None, :]
    is_written = is_position[:, None] & is_output[None, :]
    if HAS_SKIP:
        skip = tl.load(skip_pointer + place, mask=is_written, other=0)
        real += skip.to(tl.float32) * skip_scale
    if HAS_RELU:
        real = tl.maximum(real, 0.0)
    if TO_CODES:
        real = tl.minimum(tl.maximum(real * codes_a_unit, -128.0), 127.0)
        tl.store(out_pointer + place, ((real + ROUNDER) - ROUNDER).to(tl.int8), mask=is_written)
    else:
        tl.store(out_pointer + place, real.to(out_pointer.dtype.element_ty), mask=is_written)


def codes_in_one_pass(real: Tensor, scale: float) -> Tensor:
    """Return the nearest codes of real numbers as `int8_layers.codes_of` does, in one kernel."""
    dense = real if real.is_contiguous() else real.contiguous(memory_format=_layout(real))
    codes = torch.empty_like(dense, dtype=torch.int8)
    block = 1024
    _nearest_codes[(triton.cdiv(dense.numel(), block),)](
        dense, codes, dense.numel(), 1 / scale, BLOCK=block
    )
    return codes


def _layout(real: Tensor) -> torch.memory_format:
    is_image = real.dim() == 4 and real.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_image else torch.contiguous_format


@triton.jit
def _nearest_codes(
    real_pointer,
    codes_pointer,
    count,
    codes_a_unit,
    BLOCK: tl.constexpr,
) -> None:
    """Round one block of numbers, in the order in which they lie in memory."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = tl.load(real_pointer + place, mask=place < count, other=0.0).to(tl.float32)
    code = tl.minimum(tl.maximum(real * codes_a_unit, -128.0), 127.0)
    tl.store(codes_pointer + place, ((code + ROUNDER) - ROUNDER).to(tl.int8), mask=place < count)
