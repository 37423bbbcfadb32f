"""Second moments of what layers are given: X^T X over calibration data, in the weight's layout.

What a layer's error costs depends on its inputs: with H = X^T X / rows, changing a weight matrix
by D moves the outputs by trace(D H D^T) in the mean square. Sparsity, low rank and rounding all
choose by it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdeploy.torch_module.hooks import hooked
from kdeploy.torch_module.model_outputs import in_eval
from kdeploy.torch_module.named_inputs import call

# Positions of one batch that are looked at; more of them, spread evenly, would say the same.
MOST_ROWS = 4096
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def input_grams(
    model: nn.Module, batches: Iterable[Tensor], layers: Collection[str]
) -> dict[str, Tensor]:
    """Return X^T X / rows of each layer, (groups, inputs, inputs) in float32, on the CPU.

    `inputs` are numbered as in `layer.weight.flatten(1)`: of a convolution, channel by channel, the
    positions of the kernel in each. A layer that never ran is missing.

    Args:
        model: Is run in eval mode, without gradients.
        batches: Preprocessed inputs.
        layers: Names of linear and convolution layers.
    """
    return _means(model, batches, layers, lambda rows: rows.transpose(1, 2) @ rows)


def input_squares(
    model: nn.Module, batches: Iterable[Tensor], layers: Collection[str]
) -> dict[str, Tensor]:
    """Return the diagonals of `input_grams`, (groups, inputs): mean squares, much sooner."""
    return _means(model, batches, layers, lambda rows: rows.square().sum(1))


def input_rows(layer: nn.Module, given: Tensor) -> Tensor:
    """Return what the rows of a layer's weight are multiplied with: (groups, rows, inputs)."""
    if isinstance(layer, nn.Linear):
        return _thinned(given.reshape(1, -1, given.shape[-1]).float())
    assert isinstance(layer, nn.modules.conv._ConvNd), f"{type(layer).__name__} has no rows"
    patches = _patches(layer, given.float())
    batch, inputs, positions = patches.shape
    groups = layer.groups
    rows = patches.reshape(batch, groups, inputs // groups, positions)
    return _thinned(rows.permute(1, 0, 3, 2).reshape(groups, -1, inputs // groups))


def _means(
    model: nn.Module,
    batches: Iterable[Tensor],
    layers: Collection[str],
    total_of: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Return, of each layer, what `total_of` makes of its input rows, over their number."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def see(name: str, layer: nn.Module, given: Tensor) -> None:
        rows = input_rows(layer, given.detach())
        sums[name] = sums.get(name, torch.zeros(())) + total_of(rows).float().cpu()
        counts[name] = counts.get(name, 0) + rows.shape[1]

    handles = (
        model.get_submodule(name).register_forward_pre_hook(
            lambda layer, given, name=name: see(name, layer, given[0])
        )
        for name in layers
    )
    with hooked(handles), in_eval(model), torch.no_grad():
        for batch in batches:
            call(model, batch)
    return {name: total / counts[name] for name, total in sums.items()}


def _patches(layer: Any, x: Tensor) -> Tensor:
    """Return (batch, channels x kernel, positions), for one, two or three dimensions."""
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        padding = (0,) * len(layer.kernel_size)
    else:
        padding = layer.padding
    x = F.pad(x, [p for p in reversed(padding) for _ in range(2)])
    dims = len(layer.kernel_size)
    for dim, (size, step, spread) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    ):
        reach = spread * (size - 1) + 1
        # Each unfold puts the positions of its dimension's kernel last.
        x = x.unfold(2 + dim, reach, step)[..., ::spread]
    order = [0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims)]
    return x.permute(order).reshape(len(x), -1, x.shape[2 : 2 + dims].numel())


def _thinned(rows: Tensor) -> Tensor:
    """Return at most MOST_ROWS of (groups, rows, inputs), spread evenly."""
    return rows[:, :: max(1, -(-rows.shape[1] // MOST_ROWS))]
