"""A convolution or linear layer as a product of two matrices: rows of inputs times rows of weights.

The inputs lie channels last, (batch, height, width, channels); a row of inputs is what one output
position reads, ordered (kernel position, channel). A linear layer is a kernel of one over positions
in a row. So one product serves linear layers and convolutions of one and two dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Where a convolution reads: (height, width) each."""

    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def outputs(self, size: Sequence[int]) -> Pair:
        """Return the number of output positions for an input of (height, width)."""
        height, width = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                *(size, self.kernel, self.stride, self.padding, self.dilation), strict=True
            )
        )
        return height, width

    @property
    def is_pointwise(self) -> bool:
        """Tell whether each input position is read once and for itself."""
        return self.kernel == self.stride == (1, 1) and self.padding == (0, 0)


def window_of(
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
) -> Window | None:
    """Return the window of a convolution of one or two dimensions, None where it has no name.

    Padding "same" has one when it adds as much on either side.
    """
    if padding == "valid":
        padding = [0]
    if isinstance(padding, str):
        totals = [d * (k - 1) for k, d in zip(kernel, _each(dilation, len(kernel)), strict=True)]
        if any(total % 2 for total in totals):
            return None
        padding = [total // 2 for total in totals]
    dims = len(kernel)
    if dims > 2:
        return None
    return Window(
        kernel=_pair(kernel, 1, dims),
        stride=_pair(stride, 1, dims),
        padding=_pair(padding, 0, dims),
        dilation=_pair(dilation, 1, dims),
    )


def window_of_layer(layer: nn.Module) -> Window | None:
    """Return the window of a linear layer or of a convolution without groups, None of any other."""
    if type(layer) is nn.Linear:
        return Window()
    if type(layer) not in (nn.Conv1d, nn.Conv2d):
        return None
    assert isinstance(layer, nn.Conv1d | nn.Conv2d), "one of these two"
    if layer.groups != 1 or layer.padding_mode != "zeros":
        return None
    return window_of(layer.kernel_size, layer.stride, layer.padding, layer.dilation)


def positions_of(weight: Tensor) -> int:
    """Return how many dimensions a layer slides over, from its weight (outputs, inputs, ...)."""
    return weight.dim() - 2


def rows_of(weight: Tensor) -> Tensor:
    """Return a weight as (outputs, kernel positions x inputs)."""
    return weight.movedim(1, -1).flatten(1).contiguous()


def channels_last(x: Tensor, num_positions: int) -> Tensor:
    """Return a layer's input as (batch, height, width, channels); what lies so is not copied.

    Kernels read it by its address alone, so that nothing may lie between the numbers: one token
    taken out of each sequence is copied.
    """
    if num_positions == 0:
        return x.reshape(1, 1, -1, x.shape[-1]).contiguous()
    if num_positions == 1:
        return x.transpose(1, 2).unsqueeze(1).contiguous()
    return x.permute(0, 2, 3, 1).contiguous()


def as_given(y: Tensor, x: Tensor, num_positions: int) -> Tensor:
    """Return the product's (batch, height, width, outputs) laid out as the layer's input `x`."""
    if num_positions == 0:
        return y.reshape(*x.shape[:-1], y.shape[-1])
    if num_positions == 1:
        return y.squeeze(1).transpose(1, 2)
    return y.permute(0, 3, 1, 2)


def columns(x: Tensor, window: Window) -> Tensor:
    """Return what each output position reads, (positions, kernel positions x channels).

    A kernel of one is a view of `x` (batch, height, width, channels); any other a copy of it as
    many times as it has positions (im2col).
    """
    if window.is_pointwise:
        return x.reshape(-1, x.shape[-1])
    (pad_y, pad_x), (step_y, step_x) = window.padding, window.dilation
    reach_y, reach_x = (
        d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True)
    )
    padded = functional.pad(x, (0, 0, pad_x, pad_x, pad_y, pad_y))
    # Views of the padded input; the copy is made by the last reshape alone.
    seen = padded.unfold(1, reach_y, window.stride[0]).unfold(2, reach_x, window.stride[1])
    taken = seen[..., ::step_y, ::step_x]  # (batch, y, x, channels, kernel y, kernel x)
    return taken.permute(0, 1, 2, 4, 5, 3).reshape(-1, taken[0, 0, 0].numel())


def _each(values: Sequence[int], count: int) -> list[int]:
    return list(values) * count if len(values) == 1 else list(values)


def _pair(values: Sequence[int], missing: int, dims: int) -> Pair:
    """Return two numbers: one dimension is the width of an image one row high."""
    first, second = ([missing] * (2 - dims) + _each(values, dims))[:2]
    return first, second
