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
    """Return, of each layer, what `total_of` makes of its input rows, over their number.

    Linear layers that are called with one tensor, one behind the other, share one result.
    """
    totals = _Totals(total_of)
    handles = (
        model.get_submodule(name).register_forward_pre_hook(
            lambda layer, given, name=name: totals.see(name, layer, given[0].detach())
        )
        for name in layers
    )
    with hooked(handles), in_eval(model), torch.no_grad():
        for batch in batches:
            call(model, batch)
            totals.add()
    return totals.means()


class _Totals:
    """Sums over rows, by the names of the layers that saw these rows together."""

    def __init__(self, total_of: Callable[[Tensor], Tensor]) -> None:
        self._total_of = total_of
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}
        self._names: list[str] = []
        self._layer: nn.Module = nn.Identity()
        self._given: Tensor | None = None
        self._version = 0
        self._total: Tensor | None = None
        self._rows = 0

    def see(self, name: str, layer: nn.Module, given: Tensor) -> None:
        """Sum what a layer is given, once for all that are given it one behind the other."""
        if not self._is_known(layer, given):
            self.add()
            rows = input_rows(layer, given)
            self._total, self._rows = self._total_of(rows).float().cpu(), rows.shape[1]
            self._layer, self._given, self._version = layer, given, given._version
        self._names.append(name)

    def _is_known(self, layer: nn.Module, given: Tensor) -> bool:
        """Return whether these are the rows of before: the same memory, not written to since."""
        before = self._given
        return (
            before is not None
            and isinstance(layer, nn.Linear)
            and isinstance(self._layer, nn.Linear)
            and (given.data_ptr(), given.shape) == (before.data_ptr(), before.shape)
            and given._version == self._version
        )

    def add(self) -> None:
        """Add what was summed last to what its layers have seen before."""
        if self._total is not None:
            names = tuple(self._names)
            known = self._sums.get(names)
            self._sums[names] = self._total if known is None else known.add_(self._total)
            self._counts[names] = self._counts.get(names, 0) + self._rows
        self._names, self._given, self._total = [], None, None

    def means(self) -> dict[str, Tensor]:
        """Return the mean of each layer; those that always saw the same rows share a tensor."""
        seen: dict[str, list[tuple[str, ...]]] = {}
        for names in self._sums:
            for name in names:
                seen.setdefault(name, []).append(names)
        alone = {keys[0] for keys in seen.values() if len(keys) == 1}
        parted = {keys[0] for keys in seen.values() if len(keys) > 1}
        for names in alone - parted:
            self._sums[names] /= self._counts[names]
        found = {}
        for name, keys in seen.items():
            if len(keys) == 1 and keys[0] not in parted:
                found[name] = self._sums[keys[0]]
            else:
                total = torch.stack([self._sums[k] for k in keys]).sum(0)
                found[name] = total / sum(self._counts[k] for k in keys)
        return found


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
