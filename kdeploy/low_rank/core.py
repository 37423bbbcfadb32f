"""A convolution as 1x1, a narrow convolution, 1x1: the plain layers of a Tucker-2 decomposition.

Kim et al., Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile
Applications, ICLR 2016, arXiv:1511.06530. Where a rank is full, its 1x1 layer is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.low_rank.multilinear import Tucker2, mode_spectra, tucker2
from kdeploy.low_rank.pair import settings_of
from kdeploy.low_rank.ranks import Ranks
from kdeploy.low_rank.whitening import of_channels, root_of, without


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """A kernel (outputs, inputs x root, positions) that `decompose` takes apart at ranks."""

    layer: Any
    kernel: Tensor
    root: Tensor | None
    spectra: tuple[Tensor, Tensor]
    decompose: Callable[[Ranks], Tucker2]

    @property
    def full(self) -> Ranks:
        return self.layer.in_channels, self.layer.out_channels

    @property
    def unfoldings(self) -> tuple[Tensor, ...]:
        weight = self.layer.weight.detach().cpu()
        return weight.transpose(0, 1).flatten(1), weight.flatten(1)

    def energy(self, ranks: Ranks) -> float:
        total = float(self.kernel.square().sum())
        return float(self.decompose(ranks).core.square().sum()) / total if total else 1.0

    def skeleton(self, ranks: Ranks) -> nn.Sequential:
        layer, kind = self.layer, type(self.layer)
        (rank_in, rank_out), has_bias = ranks, self.layer.bias is not None
        is_last = rank_out == layer.out_channels
        layers = nn.Sequential()
        with torch.device("meta"):
            if rank_in < layer.in_channels:
                layers.add_module("reduce", kind(layer.in_channels, rank_in, 1, bias=False))
            core = kind(rank_in, rank_out, bias=has_bias and is_last, **settings_of(layer))
            layers.add_module("core", core)
            if not is_last:
                layers.add_module("expand", kind(rank_out, layer.out_channels, 1, bias=has_bias))
        return layers

    def layers(self, ranks: Ranks) -> nn.Sequential:
        weight = self.layer.weight
        layers = self.skeleton(ranks).to_empty(device=weight.device).to(weight.dtype)
        # core (p, q, k), outputs (o, p), inputs (i, q), k the positions of the kernel
        core, outputs, inputs = self.decompose(ranks)
        # The kernel was multiplied by the root of the inputs' Gram matrix; take it out again.
        reduce = inputs.T if self.root is None else without(self.root, inputs.T)
        # A full rank has no layer of its own: its factor goes into the core.
        if ranks[0] == self.full[0]:
            core = torch.einsum("pqk,qi->pik", core, reduce)
        if ranks[1] == self.full[1]:
            core = torch.einsum("pqk,op->oqk", core, outputs)
        tensors = {"reduce": reduce, "core": core, "expand": outputs}
        with torch.no_grad():
            for name, one in layers.named_children():
                one.weight.copy_(tensors[name].reshape(one.weight.shape))  # type: ignore
            if self.layer.bias is not None:
                layers[-1].bias.copy_(self.layer.bias)  # type: ignore
        return layers.train(self.layer.training)


def core_of(layer: Any, *, iterations: int, gram: Tensor | None = None) -> Core:
    """Return a convolution's kernel, ready to be taken apart.

    Args:
        layer: A convolution of one group.
        iterations: Of HOOI, at most.
        gram: Second moments of the layer's inputs; none: all inputs alike. Those of different
            positions are taken as unrelated, which bounds the output error instead of being it.
    """
    kernel = layer.weight.detach().double().cpu().flatten(2)  # (outputs, inputs, positions)
    root = None
    if gram is not None:
        root = root_of(of_channels(gram, layer.in_channels))
        kernel = torch.einsum("ojk,ji->oik", kernel, root)

    @cache
    def decompose(ranks: Ranks) -> Tucker2:
        return tucker2(kernel, *ranks, iterations=iterations)

    return Core(
        layer=layer, kernel=kernel, root=root, spectra=mode_spectra(kernel), decompose=decompose
    )
