"""Weights alone on 4 or 8 bits: linear layers and embeddings become layers that hold codes.

Second moments of inputs are those of the float model. They are gathered for as many layers at a
time as fit into a bounded memory, and those layers are rounded before the next are looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

from kdeploy.quantization.block_rounding import BlockFormat, grid_of, lies_on_grid
from kdeploy.quantization.gptq import gptq, output_error
from kdeploy.torch_module.block_quantized import (
    BlockQuantized,
    BlockQuantizedEmbedding,
    BlockQuantizedLinear,
)
from kdeploy.torch_module.input_gram import input_grams

_LOG = logging.getLogger(__name__)
MOST_BYTES = 640 * 2**20
"""Of second moments at a time."""
Floats: TypeAlias = "nn.Linear | nn.Embedding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """A layer on codes, and how far its outputs are from what they were."""

    name: str
    layer: BlockQuantized
    form: BlockFormat
    output_error: float | None = None
    """Share of the outputs' power; None where no inputs were looked at."""
    error_at_4_bits: float | None = None
    """The same, of a layer that has 8 bits because of it."""
    beside: str = ""
    """The first of the layers that are given the same: graphs may join them to one product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The layers at a language model's two ends: what reads token ids, and what scores them."""

    names: tuple[str, ...]
    ties: Mapping[str, str] = field(default_factory=dict)
    """From a layer to the one whose table it shares."""


def float_layers(model: nn.Module) -> dict[str, Floats]:
    """Return the linear layers and embeddings that codes can replace, by name; shared ones once.

    Subclasses are left out: whoever made one may read its weight in ways of its own.
    """
    return {n: m for n, m in model.named_modules() if type(m) in (nn.Linear, nn.Embedding)}


def ends_of(layers: Mapping[str, Floats]) -> Ends:
    """Return the embeddings, and linear layers that share a table with one or score its rows."""
    embeddings = {n: m for n, m in layers.items() if isinstance(m, nn.Embedding)}
    tables = {m.weight: n for n, m in embeddings.items()}
    largest = max((m.num_embeddings for m in embeddings.values()), default=None)
    heads = [
        n
        for n, m in layers.items()
        if isinstance(m, nn.Linear) and (m.weight in tables or m.out_features == largest)
    ]
    ties = {n: tables[layers[n].weight] for n in heads if layers[n].weight in tables}
    return Ends(names=(*embeddings, *heads), ties=ties)


def rounded_layers(
    model: nn.Module,
    layers: Mapping[str, BlockFormat],
    batches: Callable[[], Iterable[Tensor]],
    *,
    search: bool = True,
) -> Iterator[Rounded]:
    """Yield linear layers of a model rounded by GPTQ; the model is left as it is.

    Args:
        model: In eval mode, float.
        layers: Names of linear layers, and how each is written.
        batches: Returns the calibration data; asked once for each portion of layers.
        search: Search scales, see `gptq`.
    """
    forms = {n: f.for_columns(int(model.get_submodule(n).in_features)) for n, f in layers.items()}  # type: ignore[arg-type]
    for portion in _portions(model, list(layers)):
        grams = input_grams(model, batches(), portion)
        firsts: dict[int, str] = {}
        beside = {n: firsts.setdefault(id(gram), n) for n, gram in grams.items()}
        for name in portion:
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Linear), f"`{name}` is no linear layer"
            if name not in grams:  # it never ran
                yield to_nearest(name, layer, forms[name])
                continue
            weight, gram = layer.weight.detach().float().cpu(), grams.pop(name)[0]
            grid, codes = gptq(weight, gram, forms[name], search=search)
            error = output_error(weight, grid.real(codes), gram)
            yield Rounded(
                name=name,
                layer=_filled(layer, forms[name], grid.stored(codes)),
                form=forms[name],
                output_error=error,
                beside=beside[name],
            )


def to_nearest(name: str, layer: Floats, form: BlockFormat, *, search: bool = False) -> Rounded:
    """Return a layer rounded to its nearest codes.

    Args:
        name: Of the layer.
        layer: Float.
        form: Bits and blocks; the latter halved until they divide the inputs.
        search: Search the scales for the least squared error of the weights.
    """
    weight = layer.weight.detach().float().cpu()
    form = form.for_columns(weight.shape[1])
    importance = torch.ones(weight.shape[1]) if search else None
    grid = grid_of(weight, form, importance)
    stored = grid.stored(grid.codes_of(weight))
    return Rounded(name=name, layer=_filled(layer, form, stored), form=form)


def put_in(model: nn.Module, rounded: Iterable[Rounded], ties: Mapping[str, str]) -> None:
    """Put layers on codes in their places; those that shared a table share its codes."""
    for one in rounded:
        parent, _, name = one.name.rpartition(".")
        setattr(model.get_submodule(parent), name, one.layer)
    for name, owner in ties.items():
        layer, table = model.get_submodule(name), model.get_submodule(owner)
        if isinstance(layer, BlockQuantizedLinear) and isinstance(table, BlockQuantizedEmbedding):
            layer.codes, layer.scales = table.codes, table.scales
            layer.zero_points = table.zero_points


def on_coarse_grid(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Return the layers whose weights lie on 16 levels a block of 32 already."""
    return [n for n in names if lies_on_grid(model.get_submodule(n).weight)]  # type: ignore[arg-type]


def _portions(model: nn.Module, names: list[str]) -> Iterator[list[str]]:
    portion: list[str] = []
    held = 0
    for name in names:
        size = 4 * int(model.get_submodule(name).in_features) ** 2  # type: ignore[arg-type]
        if portion and held + size > MOST_BYTES:
            yield portion
            portion, held = [], 0
        portion.append(name)
        held += size
    if portion:
        yield portion


def _filled(layer: Floats, form: BlockFormat, stored: Mapping[str, Tensor]) -> BlockQuantized:
    made: BlockQuantized
    written = (form.bits, form.block_size, form.symmetric)
    if isinstance(layer, nn.Embedding):
        size = (layer.num_embeddings, layer.embedding_dim, layer.padding_idx)
        made = BlockQuantizedEmbedding(*size, *written)
    else:
        has_bias = layer.bias is not None
        made = BlockQuantizedLinear(layer.in_features, layer.out_features, has_bias, *written)
        if has_bias:
            made.bias = nn.Parameter(layer.bias.detach().clone())
    for name, tensor in stored.items():
        setattr(made, name, tensor)
    return made.to(layer.weight.device).train(layer.training)
