"""Configurations of the library transformers that say what is left of a model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kdeploy.torch_module.transformers_outputs import library_module

LAYERS = "num_hidden_layers"
QUERIES, KEYS = ("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")


def fit_configuration(model: nn.Module) -> bool:
    """Make the configuration of a transformers model say what is left of it; tell whether it does.

    Layers that went are numbered anew, as a cache wants them. A model that no configuration
    describes, such as one with layers of several widths, keeps the one it had.
    """
    library: Any = library_module(model)
    if library is None or not hasattr(library, "config"):
        return False
    found = _found(library)
    known = {name: getattr(library.config, name) for name in found}
    if found != known:
        _set(library.config, found)
        if unlike_configuration(library, _shapes(library)):
            _set(library.config, known)
    described = not unlike_configuration(library, _shapes(library))
    if described:
        _number(_stack(library))
    return described


def unlike_configuration(library: Any, shapes: Mapping[str, torch.Size]) -> str:
    """Return the first tensor that a model of the configuration has not, or has alone; else "".

    Args:
        library: The library's own module.
        shapes: Of the tensors that it is stored with; a shared one once.
    """
    with torch.device("meta"):  # shapes without memory
        fresh = type(library)(copy.deepcopy(library.config))
    wanted = {name: tensor.shape for name, tensor in fresh.state_dict().items()}
    unlike = [name for name, shape in shapes.items() if wanted.get(name) != shape]
    return next(iter([*unlike, *(n for n, _ in fresh.named_parameters() if n not in shapes)]), "")


def _found(library: Any) -> dict[str, Any]:
    """Return entries of a configuration as the modules have them, where they can be read."""
    config, layers = library.config, _stack(library)
    found: dict[str, Any] = {}
    if layers is None or getattr(config, LAYERS, None) is None or not len(layers):
        return found
    if len(layers) != config.num_hidden_layers:
        found[LAYERS] = len(layers)
        if getattr(config, "layer_types", None):
            found["layer_types"] = [config.layer_types[n] for n in _numbers(layers)]
    widths = {name: m for name, m in layers[0].named_modules() if isinstance(m, nn.Linear)}
    if (embedding := library.get_input_embeddings()) is not None and hasattr(config, "hidden_size"):
        found["hidden_size"] = int(embedding.weight.shape[1])
    if wide := [m for m in widths.values() if m.out_features != m.in_features]:
        found |= _feed_forward(config, wide, found.get("hidden_size"))
    size = getattr(getattr(layers[0], "self_attn", None), "head_dim", None)
    if size and hasattr(config, "head_dim"):
        found["head_dim"] = size
        ends = {name.rpartition(".")[2]: m for name, m in widths.items()}
        pairs = [(ends.get(part), entry) for part, entry in (QUERIES, KEYS)]
        found |= {
            entry: m.out_features // size for m, entry in pairs if m and hasattr(config, entry)
        }
    return found


def _feed_forward(config: Any, layers: list[nn.Linear], hidden: int | None) -> dict[str, int]:
    """Return the width that the last layer back to the hidden width reads."""
    if not hasattr(config, "intermediate_size"):
        return {}
    back = [m.in_features for m in layers if m.out_features == hidden]
    return {"intermediate_size": back[-1]} if back else {}


def _set(config: Any, entries: Mapping[str, Any]) -> None:
    for name, value in entries.items():
        setattr(config, name, value)


def _shapes(library: nn.Module) -> dict[str, torch.Size]:
    buffers = set(dict(library.named_buffers()))
    own = dict(library.named_parameters())  # shared ones once
    held = library.state_dict()
    return {name: held[name].shape for name in held if name in own or name in buffers}


def _stack(library: nn.Module) -> nn.ModuleList | None:
    """Return the one list of layers that stands in no other list; None where there are several."""
    lists = [(n, m) for n, m in library.named_modules() if isinstance(m, nn.ModuleList)]
    outer = [m for n, m in lists if not any(n.startswith(f"{other}.") for other, _ in lists)]
    return outer[0] if len(outer) == 1 else None


def _numbers(layers: nn.ModuleList) -> list[int]:
    """Return the places that layers had, as they know them themselves."""
    known = [_places(layer) for layer in layers]
    return [min(p) if p else number for number, p in enumerate(known)]


def _places(layer: nn.Module) -> list[int]:
    known = [getattr(module, "layer_idx", None) for module in layer.modules()]
    return [place for place in known if isinstance(place, int)]


def _number(layers: nn.ModuleList | None) -> None:
    for number, layer in enumerate(layers or ()):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = number  # type: ignore[assignment]
