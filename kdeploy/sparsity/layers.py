"""Layers that zeros can be set in: linear layers and convolutions."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from kdeploy.torch_module.hooks import hooked
from kdeploy.torch_module.input_gram import WEIGHTED
from kdeploy.torch_module.model_outputs import in_eval
from kdeploy.torch_module.named_inputs import call


def layers_with_weights(model: nn.Module) -> dict[str, nn.Module]:
    """Return all linear and convolution layers by name; of layers that share a weight, the first.

    A weight that is computed (`torch.nn.utils.parametrize`) is none to set zeros in.
    """
    seen: set[int] = set()
    layers: dict[str, nn.Module] = {}
    for name, layer in model.named_modules():
        weight = layer._parameters.get("weight")
        if isinstance(layer, WEIGHTED) and weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            layers[name] = layer
    return layers


def weight_of(layer: nn.Module) -> Tensor:
    """Return a layer's weight, apart from gradients; what is written to it stands in the layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor), f"{type(layer).__name__} has no weight"
    return weight.detach()


def is_depthwise(layer: nn.Module) -> bool:
    """Tell whether each channel is convolved for itself."""
    return getattr(layer, "groups", 1) > 1 and layer.groups == layer.in_channels


def first_to_run(model: nn.Module, layers: Collection[str], example: Tensor) -> str | None:
    """Return which of some layers sees its input first; modes and statistics stay."""
    order: list[str] = []
    handles = (
        model.get_submodule(name).register_forward_pre_hook(lambda *_, n=name: order.append(n))
        for name in layers
    )
    with hooked(handles), in_eval(model), torch.no_grad():
        call(model, example)
    return order[0] if order else None
