"""Integer layers: int8 codes in, sums in 32 bits, and what follows the sum in the same kernel.

The arithmetic is that of a fake-quantized layer, without its float products: the codes are what
the float numbers are multiples of, and sums of products of codes are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.kernels.windows import Window, as_given, channels_last, columns, rows_of

LOWEST_CODE, HIGHEST_CODE = -128, 127
# Of `torch._int_mm` on CUDA: more rows than this, and inner and outer sizes that are multiples.
FEWEST_ROWS, MULTIPLE = 17, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Epilogue:
    """What a kernel does with its sums: scale, bias, skip, ReLU, and the next layer's codes."""

    skip_scale: float | None = None
    """Of the codes that are added, None when nothing is."""
    has_relu: bool = False
    code_scale: float | None = None
    """Of the codes that leave; None: real numbers leave, in `real_type`."""
    real_type: torch.dtype = torch.float32


class IntegerLayer(nn.Module):
    """A convolution or linear layer on int8 codes; which kernel computes it, `product` decides."""

    rows: Tensor
    scales: Tensor
    bias: Tensor

    def __init__(
        self,
        weight: Tensor,
        scales: Tensor,
        bias: Tensor | None,
        *,
        window: Window,
        epilogue: Epilogue,
        name: str = "",
    ) -> None:
        """Take a layer.

        Args:
            weight: int8 codes (outputs, inputs, ...).
            scales: (outputs,), what a sum of products of codes is worth: scale of the input times
                those of the weights.
            bias: (outputs,), real.
            window: Where it reads.
            epilogue: What follows.
            name: Of the layer in the model.
        """
        super().__init__()
        self.register_buffer("rows", rows_of(weight))
        self.register_buffer("scales", scales.float())
        self.register_buffer("bias", torch.zeros_like(scales) if bias is None else bias.float())
        self.window, self.epilogue, self.name = window, epilogue, name
        self.num_positions = weight.dim() - 2
        self.product: Callable[[Tensor, Tensor | None], Tensor] = Reference(self)

    def forward(self, codes: Tensor, skip: Tensor | None = None) -> Tensor:
        """Return codes or real numbers, laid out as `codes` are; `skip`: as the result is."""
        x = channels_last(codes, self.num_positions)
        added = None if skip is None else channels_last(skip, self.num_positions)
        return as_given(self.product(x, added), codes, self.num_positions)


class Reference:
    """Exact sums in 32-bit integers, on any device: what every other kernel must equal."""

    def __init__(self, layer: IntegerLayer) -> None:
        self._layer = layer

    def __call__(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Return the layer's output (batch, height, width, outputs)."""
        # int32 holds the sum of 2**17 products of codes: 128 * 128 * 2**17 is 2**31.
        sums = columns(x, self._layer.window).int() @ self._layer.rows.int().t()
        return finished(sums, x, self._layer, skip)


class IntMm:
    """`torch._int_mm` (cuBLASLt) on the columns, its rules met by padding with zeros."""

    def __init__(self, layer: IntegerLayer) -> None:
        self._layer = layer
        self._outputs, inner = layer.rows.shape
        self._more = -inner % MULTIPLE  # zeros add nothing to a sum
        self._rows = _padded(layer.rows, -self._outputs % MULTIPLE, self._more)

    def __call__(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Return the layer's output (batch, height, width, outputs)."""
        read = columns(x, self._layer.window)
        num_read = len(read)
        read = _padded(read, max(FEWEST_ROWS - num_read, 0), self._more)
        sums = torch._int_mm(read, self._rows.t())  # row-major times column-major
        return finished(sums[:num_read, : self._outputs], x, self._layer, skip)


def finished(sums: Tensor, x: Tensor, layer: IntegerLayer, skip: Tensor | None) -> Tensor:
    """Return the output (batch, height, width, outputs) from sums (positions, outputs)."""
    epilogue = layer.epilogue
    real = sums.float() * layer.scales + layer.bias
    real = real.view(len(x), *layer.window.outputs(x.shape[1:3]), -1)
    if skip is not None and epilogue.skip_scale is not None:
        real = real + skip.float() * epilogue.skip_scale
    real = real.relu() if epilogue.has_relu else real
    if epilogue.code_scale is None:
        return real.to(epilogue.real_type)
    return codes_of(real, epilogue.code_scale)


def codes_of(real: Tensor, scale: float) -> Tensor:
    """Return the nearest codes of real numbers, ties to the even one."""
    # A product, as the Triton kernel has it: a division may round to another code.
    scaled = real.float() * (1 / scale)
    return scaled.round().clamp(LOWEST_CODE, HIGHEST_CODE).to(torch.int8)


def reals_of(codes: Tensor, scale: float, real_type: torch.dtype) -> Tensor:
    """Return what codes stand for."""
    return (codes.float() * scale).to(real_type)


def _padded(matrix: Tensor, more_rows: int, more_columns: int) -> Tensor:
    if more_rows == more_columns == 0:
        return matrix
    return functional.pad(matrix, (0, more_columns, 0, more_rows))
