"""Training with weights on codes in place: their scales, or the weights behind the codes as well.

Learned step sizes: Esser et al., ICLR 2020, arXiv:1902.08153, equation 3, for each block. Rounding
passes gradients straight through. A scale learns as a factor of what it was, so that one learning
rate suits blocks of all sizes. While a model is trained, each layer on codes has a twin with
parameters in its place, which computes the very numbers that the codes stand for.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdeploy.quantization.block_rounding import float16_scales
from kdeploy.torch_module.block_quantized import (
    BlockQuantized,
    BlockQuantizedEmbedding,
    block_quantized,
    packed,
    unpacked,
)


class TrainedCodes(nn.Module):
    """Stands in for a linear layer or an embedding on codes; its scales are parameters."""

    def __init__(self, layer: BlockQuantized, *, learns_weights: bool) -> None:
        super().__init__()
        # In a tuple: what it was is no part of what is trained.
        self.origin = (layer,)
        columns = layer.weight.shape[1]
        self.columns, self.highest = columns, 2**layer.bits - 1
        self.factors = nn.Parameter(torch.ones_like(layer.scales, dtype=torch.float32))
        self.register_buffer("start", layer.scales.float())
        centre = torch.full_like(layer.scales, 2 ** (layer.bits - 1), dtype=torch.float32)
        if layer.zero_points is not None:
            centre = unpacked(layer.zero_points, layer.bits)[:, : centre.shape[1]].float()
        self.register_buffer("points", centre)
        codes = unpacked(layer.codes, layer.bits)
        self.codes: Tensor | None
        self.register_buffer("codes", None if learns_weights else codes)
        real = (codes.float() - centre[..., None]) * layer.scales.float()[..., None]
        self.latent = nn.Parameter(real) if learns_weights else None
        bias = None if isinstance(layer, BlockQuantizedEmbedding) else layer.bias
        self.bias = bias

    def share(self, other: TrainedCodes) -> None:
        """Compute with the parameters of another, as layers that share a table do."""
        self.factors, self.latent, self.codes = other.factors, other.latent, other.codes

    @property
    def scales(self) -> Tensor:
        """Return the scales (rows, blocks), float32."""
        return self.get_buffer("start") * self.factors

    def forward(self, given: Tensor) -> Tensor:
        """Return what the layer computes of inputs (..., inputs) or of ids (...)."""
        if isinstance(self.origin[0], BlockQuantizedEmbedding):
            rows = self._real(given.flatten())
            return rows.reshape(*given.shape, self.columns)
        return F.linear(given, self._real(), self.bias)

    def numbers(self, rows: Tensor | None = None, *, scales: Tensor | None = None) -> Tensor:
        """Return the codes (rows, blocks, block_size), float32; gradients pass to weights."""
        taken = slice(None) if rows is None else rows
        if self.latent is None:
            assert self.codes is not None, "neither codes nor weights"
            return self.codes[taken].float()
        wide = (self.scales if scales is None else scales)[taken].unsqueeze(-1)
        centre = self._points()[taken].unsqueeze(-1)
        exact = (self.latent[taken] / wide + centre).clamp(0, self.highest)
        return exact + (exact.round() - exact).detach()

    def fixed(self) -> BlockQuantized:
        """Return the layer with the codes and scales that were learned."""
        layer = self.origin[0]
        with torch.no_grad():
            scales = float16_scales(self.scales)
            layer.codes = packed(self.numbers(scales=scales).round(), layer.bits)
        layer.scales = scales.half()
        return layer

    def _real(self, rows: Tensor | None = None) -> Tensor:
        taken = slice(None) if rows is None else rows
        centred = self.numbers(rows) - self._points()[taken].unsqueeze(-1)
        return (centred * self.scales[taken].unsqueeze(-1)).flatten(1)[:, : self.columns]

    def _points(self) -> Tensor:
        return self.get_buffer("points")


def train_codes(model: nn.Module, learned: Literal["scales", "weights"]) -> None:
    """Put twins that can be trained in the places of a model's layers on codes."""
    tables: dict[int, TrainedCodes] = {}
    for name, layer in block_quantized(model).items():
        twin = TrainedCodes(layer, learns_weights=learned == "weights").train(layer.training)
        if (owner := tables.setdefault(layer.codes.data_ptr(), twin)) is not twin:
            twin.share(owner)
        model.set_submodule(name, twin)


def fix_codes(model: nn.Module) -> None:
    """Put layers on codes back, as they were learned; those that shared a table share its codes."""
    tables: dict[int, BlockQuantized] = {}
    twins = {n: m for n, m in model.named_modules() if isinstance(m, TrainedCodes)}
    for name, twin in twins.items():
        layer = twin.fixed()
        owner = tables.setdefault(id(twin.factors), layer)
        layer.scales, layer.codes = owner.scales, owner.codes
        model.set_submodule(name, layer.train(twin.training))
