"""Layers, feed-forward width and heads of Llama-like decoders: what each is worth, and without it.

Block influence: Men et al., ShortGPT, arXiv:2403.03853, equation 1. Width by activations:
Muralidharan et al., Minitron, NeurIPS 2024, arXiv:2407.14679, section 2.2; here each channel is
weighed by what reads it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.errors import ModelError
from kdeploy.torch_module.hooks import hooked
from kdeploy.torch_module.named_inputs import call
from kdeploy.torch_module.transformers_outputs import TextLogits, library_module

LAYERS = "model.layers."
PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
FEED_FORWARD = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderScores:
    """What the parts of a decoder are worth; the least may go first."""

    influence: Tensor
    """1 - cosine of what goes into a layer and what comes out, (layers,)."""
    channels: Sequence[Tensor]
    """Of each layer, of its feed-forward channels, (intermediate,)."""
    groups: Sequence[Tensor]
    """Of each layer, of its key heads with the query heads that read them, (key heads,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptParts:
    """Which parts stay, by their numbers in rising order."""

    layers: Sequence[int]
    channels: Mapping[int, Tensor]
    """Of each layer that stays, as many in all of them."""
    groups: Mapping[int, Tensor]


def decoder_in(model: nn.Module) -> Any:
    """Return the library's own decoder in a model.

    Raises:
        ModelError: it is none whose layers are built as Llama's are.
    """
    library: Any = library_module(model)
    layers = getattr(getattr(library, "model", None), "layers", None)
    names = {name for name, _ in layers[0].named_modules()} if layers else set()
    missing = [name for name in (*PROJECTIONS, *FEED_FORWARD) if name not in names]
    if not isinstance(model, TextLogits) or missing:
        what = f" (no `{missing[0]}` in its layers)" if layers else ""
        raise ModelError(
            f"`{type(library or model).__name__}` is no decoder with layers as Llama's{what}",
            hint="`drop_layers` and `prune_channels` take other models",
        )
    return library


@torch.no_grad()
def scored(model: nn.Module, batches: Iterable[Any]) -> DecoderScores:
    """Return the scores of all parts, from one pass over batches of token ids.

    Args:
        model: A decoder, see `decoder_in`.
        batches: As the model takes them.
    """
    layers = decoder_in(model).model.layers
    sums = _Sums(len(layers))
    handles = [hook for index, layer in enumerate(layers) for hook in sums.watch(index, layer)]
    with hooked(iter(handles)):
        for batch in batches:
            call(model, batch)
    heads = decoder_in(model).config.num_key_value_heads
    channels: list[Tensor] = []
    groups: list[Tensor] = []
    for index, layer in enumerate(layers):
        for found, reader in ((channels, layer.mlp.down_proj), (groups, layer.self_attn.o_proj)):
            found.append(sums.inputs[index, reader] * reader.weight.norm(dim=0).double())
    # Query heads of one key head stand side by side.
    per_group = [channel.reshape(heads, -1).sum(1) for channel in groups]
    return DecoderScores(
        influence=1 - sums.cosines / sums.tokens, channels=channels, groups=per_group
    )


def narrowed(model: nn.Module, kept: KeptParts) -> nn.Module:
    """Return a decoder of the parts that stay, with its configuration; the given one is left."""
    from transformers.initialization import no_init_weights

    library = decoder_in(model)
    with no_init_weights():
        made = type(library)(_configuration(library.config, kept))
    tensors = {}
    for name, tensor in library.state_dict().items():
        if (own := _own_name(name, kept)) is not None:
            tensors[own] = _cut(name, tensor, kept, library.config).clone()
    made.load_state_dict(tensors, strict=True)
    made.tie_weights()
    made.generation_config = copy.deepcopy(library.generation_config)
    for module in made.modules():
        if hasattr(module, "name_or_path"):
            module.name_or_path = ""
    first = next(library.parameters())
    return TextLogits(made.to(device=first.device, dtype=first.dtype)).train(model.training)


class _Sums:
    """Sums over all tokens that layers are shown."""

    def __init__(self, layers: int) -> None:
        self.cosines, self.tokens = torch.zeros(layers, dtype=torch.float64), 0
        self.inputs: dict[tuple[int, nn.Module], Tensor] = {}

    def watch(self, index: int, layer: Any) -> list[Any]:
        """Return the handles of the hooks on a layer and on what reads channels in it."""

        def turned(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            answer = out if isinstance(out, Tensor) else out[0]
            self.cosines[index] += functional.cosine_similarity(given, answer, dim=-1).sum().cpu()
            self.tokens += given.shape[0] * given.shape[1] if index == 0 else 0

        def read(module: nn.Module, args: Any) -> None:
            size = args[0].detach().abs().double().flatten(0, -2).sum(0)
            self.inputs[index, module] = self.inputs.get((index, module), 0) + size

        readers = (layer.mlp.down_proj, layer.self_attn.o_proj)
        handles = [layer.register_forward_hook(turned, with_kwargs=True)]
        return handles + [reader.register_forward_pre_hook(read) for reader in readers]


def _configuration(config: Any, kept: KeptParts) -> Any:
    first = kept.layers[0]
    made = copy.deepcopy(config)
    made.head_dim = head_size(config)
    made.num_hidden_layers = len(kept.layers)
    made.intermediate_size = len(kept.channels[first])
    made.num_key_value_heads = len(kept.groups[first])
    made.num_attention_heads = query_heads(config) * len(kept.groups[first])
    if getattr(config, "layer_types", None):
        made.layer_types = [config.layer_types[index] for index in kept.layers]
    return made


def _own_name(name: str, kept: KeptParts) -> str | None:
    """Return what a tensor is called in the smaller decoder; None where it has no place."""
    if not name.startswith(LAYERS):
        return name
    index, _, rest = name.removeprefix(LAYERS).partition(".")
    if int(index) not in kept.layers:
        return None
    return f"{LAYERS}{list(kept.layers).index(int(index))}.{rest}"


def _cut(name: str, tensor: Tensor, kept: KeptParts, config: Any) -> Tensor:
    """Return the rows or columns of a tensor that stay."""
    if not name.startswith(LAYERS):
        return tensor
    index, _, rest = name.removeprefix(LAYERS).partition(".")
    layer, _, kind = rest.rpartition(".")
    if layer in FEED_FORWARD:
        places = kept.channels[int(index)]
        return _taken(tensor, places, reads=layer == FEED_FORWARD[-1], kind=kind)
    if layer not in PROJECTIONS:
        return tensor
    _, key, value, output = PROJECTIONS
    width = head_size(config) * (1 if layer in (key, value) else query_heads(config))
    places = (kept.groups[int(index)][:, None] * width + torch.arange(width)).flatten()
    return _taken(tensor, places, reads=layer == output, kind=kind)


def head_size(config: Any) -> int:
    """Return the channels of a head."""
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def query_heads(config: Any) -> int:
    """Return how many query heads read one key head."""
    return int(config.num_attention_heads // config.num_key_value_heads)


def _taken(tensor: Tensor, places: Tensor, *, reads: bool, kind: str) -> Tensor:
    if reads:
        return tensor[:, places] if kind == "weight" else tensor
    return tensor[places]
