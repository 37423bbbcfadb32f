"""Layers of `torch.nn`, and those on codes, as plain JSON and back: types and their arguments.

This is all that an artefact's edits can construct; nothing is imported by name.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.torch_module.block_quantized import BlockQuantizedEmbedding, BlockQuantizedLinear

# Files of torch.nn whose layers an edit may put in.
_FAMILIES = (
    "activation batchnorm channelshuffle conv dropout flatten instancenorm linear normalization "
    "padding pixelshuffle pooling sparse upsampling"
)
ALLOWED: Mapping[str, type[nn.Module]] = {
    name: kind
    for name, kind in vars(nn).items()
    if isinstance(kind, type) and kind.__module__.rpartition(".")[2] in _FAMILIES.split()
} | {k.__name__: k for k in (nn.Sequential, BlockQuantizedEmbedding, BlockQuantizedLinear)}


def describe_layer(path: str, module: nn.Module) -> dict[str, Any]:
    """Return type and constructor arguments of a layer on the list; defaults are left out."""
    kind = type(module)
    if ALLOWED.get(kind.__name__) is not kind:
        raise ModelError(
            f"module `{path}` became a {kind.__qualname__}, which an artefact cannot store",
            hint=f"put in layers of torch.nn, or let build.py make it; valid: {', '.join(ALLOWED)}",
        )
    defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    values = {name: getattr(module, name, default) for name, default in defaults.items()}
    if "bias" in values:
        # The constructor takes a flag, the layer has a tensor or None.
        values["bias"] = values["bias"] is not None
    given = {
        name: to_json(value)
        for name, value in values.items()
        # Layers keep a number for each dimension: (1, 1) for the default 1.
        if is_plain(value) and value not in (defaults[name], (defaults[name],) * _length(value))
    }
    return {"type": kind.__name__, "arguments": given}


def construct_layer(layer: Mapping[str, Any]) -> nn.Module:
    """Return a new layer; its weights are of no meaning, and no random number is used up."""
    arguments = {key: to_tuples(value) for key, value in layer["arguments"].items()}
    with torch.random.fork_rng(devices=[]):
        return ALLOWED[layer["type"]](**arguments)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, tuple) else 0


def is_plain(value: Any) -> bool:
    """Tell whether JSON can hold the value: numbers, text, None, and sequences of them."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or type(value) in (bool, int, str)


def to_json(value: Any) -> Any:
    """Return a plain value with lists for tuples."""
    return [to_json(item) for item in value] if isinstance(value, list | tuple) else value


def to_tuples(value: Any) -> Any:
    """Return a plain value with tuples for lists, as layers keep them."""
    return tuple(to_tuples(item) for item in value) if isinstance(value, list) else value
