"""Text written token by token: the logits of the next one, with a cache where the model has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from kdeploy.torch_module.transformers_outputs import TextLogits


def next_logits(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return a function of ids (batch, tokens) for the next token's logits (batch, vocabulary).

    Each call has the ids of the call before and more behind them. A decoder of transformers keeps
    the keys and values of what it has read; any other model reads all ids again.
    """
    if not has_cache(model):
        return lambda ids: model(ids)[:, -1]
    library: Any = model.model
    read, cache = 0, None

    def following(ids: Tensor) -> Tensor:
        nonlocal read, cache
        answer = library(ids[:, read:], past_key_values=cache, use_cache=True)
        read, cache = ids.shape[1], answer.past_key_values
        return answer.logits[:, -1]  # type: ignore[no-any-return]

    return following


def has_cache(model: nn.Module) -> bool:
    """Return whether a model is a decoder whose layers are numbered as a cache of them needs."""
    layers = getattr(getattr(getattr(model, "model", None), "model", None), "layers", None)
    if not isinstance(model, TextLogits) or not isinstance(layers, nn.ModuleList):
        return False
    if not hasattr(model.model.config, "use_cache"):
        return False
    numbers = [getattr(getattr(x, "self_attn", None), "layer_idx", None) for x in layers]
    # Layers that were dropped leave gaps, and the first one counts the tokens.
    return numbers == list(range(len(layers)))
