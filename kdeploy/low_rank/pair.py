"""A weight matrix as the product of two, and the two plain layers that compute it.

Linear layers: Denton et al., arXiv:1404.0736. Convolutions, form `channel` (r filters of the same
kernel, then 1x1): Zhang et al., arXiv:1505.06798; form `spatial` (kx1, then 1xk): Jaderberg et
al., arXiv:1405.3866. Stride, padding and dilation go to the layer that has the dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdeploy.low_rank.ranks import Ranks, kept_energy
from kdeploy.low_rank.whitening import of_columns, root_of, without

Form = Literal["channel", "spatial"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """`left @ right` is the weight as a matrix; the first r columns and rows its best rank r."""

    layer: Any
    form: Form
    left: Tensor
    right: Tensor
    spectrum: Tensor

    @property
    def full(self) -> Ranks:
        return (len(self.spectrum),)

    @property
    def spectra(self) -> tuple[Tensor, ...]:
        return (self.spectrum,)

    @property
    def unfoldings(self) -> tuple[Tensor, ...]:
        return (matrix_of(self.layer, self.form),)

    def energy(self, ranks: Ranks) -> float:
        return kept_energy(self.spectrum, ranks[0])

    def skeleton(self, ranks: Ranks) -> nn.Sequential:
        with torch.device("meta"):
            return _two_layers(self.layer, self.form, ranks[0])

    def layers(self, ranks: Ranks) -> nn.Sequential:
        weight, (rank,) = self.layer.weight, ranks
        pair = self.skeleton(ranks).to_empty(device=weight.device).to(weight.dtype)
        reduce, expand = pair.get_submodule("reduce"), pair.get_submodule("expand")
        left = self.left[:, :rank]
        if self.form == "spatial":  # rows are (outputs, width)
            left = left.reshape(len(weight), -1, rank).transpose(1, 2)
        with torch.no_grad():
            reduce.weight.copy_(self.right[:rank].reshape(reduce.weight.shape))  # type: ignore
            expand.weight.copy_(left.reshape(expand.weight.shape))  # type: ignore
            if self.layer.bias is not None:
                expand.bias.copy_(self.layer.bias)  # type: ignore
        return pair.train(self.layer.training)


def pair_of(layer: Any, *, form: Form, gram: Tensor | None = None) -> Pair:
    """Return the factors of a linear layer's or a convolution's weight.

    Args:
        layer: A convolution of one group, or a linear layer.
        form: Of a convolution; `form_of` says which one it can take.
        gram: Second moments of the layer's inputs; none: all inputs alike. In the form
            `spatial` those of different kernel columns are taken as unrelated, which bounds the
            output error instead of being it.
    """
    matrix = matrix_of(layer, form)
    if gram is None:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        if form == "spatial":
            gram = of_columns(gram, layer.in_channels, layer.kernel_size)
        root = root_of(gram)
        left, values, right = torch.linalg.svd(matrix @ root, full_matrices=False)
        right = without(root, right)
    # Both get the same share of the size: neither learns or rounds worse than the other.
    share = values.sqrt()
    dtype = layer.weight.dtype
    return Pair(
        layer=layer,
        form=form,
        left=(left * share).to(dtype),
        right=(share[:, None] * right).to(dtype),
        spectrum=values**2,  # energy of each rank
    )


def form_of(layer: nn.Module, wanted: Form) -> Form:
    """Return the form a layer can take: only two-dimensional kernels can be spatial."""
    kernel = getattr(layer, "kernel_size", ())
    return wanted if len(kernel) == 2 and min(kernel) > 1 else "channel"


def matrix_of(layer: Any, form: Form) -> Tensor:
    """Return the weight as the matrix that is taken apart, in float64 on the CPU."""
    weight: Tensor = layer.weight.detach().double().cpu()
    if form == "channel":
        return weight.flatten(1)
    outputs, inputs, height, width = weight.shape
    # (outputs, width) x (inputs, height): Jaderberg et al., scheme 2.
    return weight.permute(0, 3, 1, 2).reshape(outputs * width, inputs * height)


def _two_layers(layer: Any, form: Form, rank: int) -> nn.Sequential:
    has_bias = layer.bias is not None
    pair = nn.Sequential()
    if isinstance(layer, nn.Linear):
        pair.add_module("reduce", nn.Linear(layer.in_features, rank, bias=False))
        pair.add_module("expand", nn.Linear(rank, layer.out_features, bias=has_bias))
        return pair
    first, second = settings_of(layer), {"kernel_size": 1}
    if form == "spatial":
        first, second = (_of_dimension(layer, dim) for dim in (0, 1))
    kind = type(layer)
    pair.add_module("reduce", kind(layer.in_channels, rank, bias=False, **first))
    pair.add_module("expand", kind(rank, layer.out_channels, bias=has_bias, **second))
    return pair


def settings_of(layer: Any) -> dict[str, Any]:
    """Return what a convolution does in space."""
    names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    return {name: getattr(layer, name) for name in names}


def _of_dimension(layer: Any, dim: int) -> dict[str, Any]:
    """Return the settings of one dimension, and those of a 1x1 kernel in the other one."""
    neutral = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    settings = settings_of(layer)
    for name, value in settings.items():
        if isinstance(value, tuple):
            settings[name] = tuple(v if d == dim else neutral[name] for d, v in enumerate(value))
    return settings
