"""Layers whose weights are codes of 4 or 8 bits, a scale for each block of inputs.

The layout is that of ONNX Runtime's MatMulNBits: `codes` (outputs, blocks, block_size * bits / 8),
the first code of a byte in its low bits; `scales` (outputs, blocks), float16, so that every format
keeps them exactly; `zero_points` (outputs, bytes) packed in the same way, none where each is
2^(bits-1). A weight is (code - zero_point) * scale; inputs are filled up to whole blocks.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BlockQuantizedLinear(nn.Module):
    """A linear layer that computes with the real numbers that its codes stand for."""

    codes: Tensor
    scales: Tensor
    zero_points: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        bits: int = 4,
        block_size: int = 32,
        symmetric: bool = True,
    ) -> None:
        """Make the layer with codes of zero.

        Args:
            in_features: Inputs.
            out_features: Outputs.
            bias: Whether a bias is added, which is no integer.
            bits: Of a code, 4 or 8.
            block_size: Inputs that share a scale.
            symmetric: Whether all zero points are 2^(bits-1), and none is stored.
        """
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bits, self.block_size, self.symmetric = bits, block_size, symmetric
        _register(self, out_features, in_features)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @property
    def weight(self) -> Tensor:
        """Return the real weights (out_features, in_features), float32."""
        return dequantized(
            *(self.codes, self.scales, self.zero_points), self.bits, self.block_size
        )[:, : self.in_features]

    def forward(self, x: Tensor) -> Tensor:
        """Return x (..., in_features) times the weights, plus the bias: (..., out_features)."""
        product: Tensor = LINEAR(
            *(x, self.codes, self.scales, self.zero_points, self.bias),
            *(self.bits, self.block_size),
        )
        return product

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bits={self.bits}, block_size={self.block_size}, symmetric={self.symmetric}"
        )


class BlockQuantizedEmbedding(nn.Module):
    """A table of vectors, of which those asked for are made out of codes."""

    codes: Tensor
    scales: Tensor
    zero_points: Tensor | None

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        bits: int = 8,
        block_size: int = 32,
        symmetric: bool = True,
    ) -> None:
        """Make the table with codes of zero.

        Args:
            num_embeddings: Rows.
            embedding_dim: Numbers in a row.
            padding_idx: The row that stands for no token; kept as a fact alone.
            bits: Of a code, 4 or 8.
            block_size: Numbers of a row that share a scale.
            symmetric: Whether all zero points are 2^(bits-1), and none is stored.
        """
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx
        self.bits, self.block_size, self.symmetric = bits, block_size, symmetric
        _register(self, num_embeddings, embedding_dim)

    @property
    def weight(self) -> Tensor:
        """Return the real table (num_embeddings, embedding_dim), float32."""
        return dequantized(
            *(self.codes, self.scales, self.zero_points), self.bits, self.block_size
        )[:, : self.embedding_dim]

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of ids (...): (..., embedding_dim)."""
        rows: Tensor = EMBEDDING(
            *(ids, self.codes, self.scales, self.zero_points),
            *(self.bits, self.block_size, self.embedding_dim),
        )
        return rows

    def extra_repr(self) -> str:
        return (
            f"{self.num_embeddings}, {self.embedding_dim}, bits={self.bits}, "
            f"block_size={self.block_size}, symmetric={self.symmetric}"
        )


BlockQuantized = BlockQuantizedLinear | BlockQuantizedEmbedding


def block_quantized(model: nn.Module) -> dict[str, BlockQuantized]:
    """Return the layers of a model that hold codes, by name; shared ones once."""
    kinds = (BlockQuantizedLinear, BlockQuantizedEmbedding)
    return {name: m for name, m in model.named_modules() if isinstance(m, kinds)}


def num_weights(model: nn.Module) -> int:
    """Return how many weights the codes of a model stand for; a shared table counts once."""
    shapes = {
        layer.codes.data_ptr(): (
            layer.out_features * layer.in_features
            if isinstance(layer, BlockQuantizedLinear)
            else layer.num_embeddings * layer.embedding_dim
        )
        for layer in block_quantized(model).values()
    }
    return sum(shapes.values())


def with_rounded_inputs(
    model: nn.Module, *, block_size: int = 0, has_half_scales: bool = False
) -> nn.Module:
    """Return a copy whose layers on codes round their inputs to 8 bits, a scale a block.

    So do the fast kernels for codes: ONNX Runtime's (`accuracy_level` 4) in the blocks of the
    weights, llama.cpp's in blocks of 32 with scales in float16. How far that moves a model is what
    a file may be away from it.

    Args:
        model: Has layers on codes.
        block_size: Inputs that share a scale; 0: as many as weights of the layer do.
        has_half_scales: Whether scales are rounded to float16.
    """
    twin = copy.deepcopy(model)
    for layer in block_quantized(twin).values():
        if isinstance(layer, BlockQuantizedLinear):
            size = block_size or layer.block_size
            layer.register_forward_pre_hook(
                partial(_round_inputs, size=size, has_half_scales=has_half_scales)
            )
    return twin


def _round_inputs(
    layer: nn.Module, given: tuple[Tensor, ...], *, size: int, has_half_scales: bool
) -> tuple[Tensor]:
    del layer
    x = given[0]
    blocks = F.pad(x, (0, -x.shape[-1] % size)).reshape(*x.shape[:-1], -1, size)
    scales = (blocks.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-30)
    rounded = (blocks / scales).round() * (scales.half().float() if has_half_scales else scales)
    return (rounded.flatten(-2)[..., : x.shape[-1]],)


def dequantized(
    codes: Tensor, scales: Tensor, zero_points: Tensor | None, bits: int, block_size: int
) -> Tensor:
    """Return the real numbers (rows, blocks * block_size) of codes, float32."""
    values = unpacked(codes, bits).float()
    centre: Tensor | float = float(2 ** (bits - 1))
    if zero_points is not None:
        centre = unpacked(zero_points, bits)[:, : codes.shape[1]].float().unsqueeze(-1)
    return ((values - centre) * scales.float().unsqueeze(-1)).flatten(1)


def packed(codes: Tensor, bits: int) -> Tensor:
    """Return codes (..., n) as bytes (..., n * bits / 8), low bits first; odd ends are filled."""
    if bits == 8:
        return codes.to(torch.uint8)
    even = F.pad(codes, (0, codes.shape[-1] % 2)).to(torch.uint8)
    return even[..., 0::2] | (even[..., 1::2] << 4)


def unpacked(stored: Tensor, bits: int) -> Tensor:
    """Return the codes of bytes (..., bytes): (..., bytes * 8 / bits), uint8."""
    if bits == 8:
        return stored
    return torch.stack((stored & 15, stored >> 4), dim=-1).flatten(-2)


def _register(layer: nn.Module, rows: int, columns: int) -> None:
    bits, block_size = int(layer.bits), int(layer.block_size)  # type: ignore[arg-type]
    blocks = -(-columns // block_size)
    size = (rows, blocks, block_size * bits // 8)
    layer.register_buffer("codes", torch.zeros(size, dtype=torch.uint8))
    layer.register_buffer("scales", torch.zeros((rows, blocks), dtype=torch.float16))
    points = torch.zeros((rows, -(-blocks * bits // 8)), dtype=torch.uint8)
    layer.register_buffer("zero_points", None if layer.symmetric else points)


@torch.library.custom_op("kdeploy::block_linear", mutates_args=())
def block_linear(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    zero_points: Tensor | None,
    bias: Tensor | None,
    bits: int,
    block_size: int,
) -> Tensor:
    """Return x (..., inputs) times the real weights of codes, plus the bias."""
    weight = dequantized(codes, scales, zero_points, bits, block_size)[:, : x.shape[-1]]
    return F.linear(x, weight.to(x.dtype), bias)


@block_linear.register_fake
def _(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    zero_points: Tensor | None,
    bias: Tensor | None,
    bits: int,
    block_size: int,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


@torch.library.custom_op("kdeploy::block_embedding", mutates_args=())
def block_embedding(
    ids: Tensor,
    codes: Tensor,
    scales: Tensor,
    zero_points: Tensor | None,
    bits: int,
    block_size: int,
    columns: int,
) -> Tensor:
    """Return the rows of ids (...) of a table of codes: (..., columns), float32."""
    flat = ids.flatten()
    points = None if zero_points is None else zero_points[flat]
    rows = dequantized(codes[flat], scales[flat], points, bits, block_size)[:, :columns]
    return rows.reshape(*ids.shape, columns).contiguous()


@block_embedding.register_fake
def _(
    ids: Tensor,
    codes: Tensor,
    scales: Tensor,
    zero_points: Tensor | None,
    bits: int,
    block_size: int,
    columns: int,
) -> Tensor:
    return scales.new_empty((*ids.shape, columns), dtype=torch.float32)


LINEAR = torch.ops.kdeploy.block_linear.default
EMBEDDING = torch.ops.kdeploy.block_embedding.default
