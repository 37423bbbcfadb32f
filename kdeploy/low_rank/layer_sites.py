"""Where a model has layers that plain layers can take the place of, and what they are given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.torch_module.complexity import count_macs
from kdeploy.torch_module.hooks import hooked
from kdeploy.torch_module.named_inputs import call
from kdeploy.untrusted.user_code import described

PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
CONVOLUTIONS = PLAIN[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSite:
    """One layer, by each name that it has, and an input of each call in a run of the model."""

    names: tuple[str, ...]
    layer: Any
    inputs: tuple[Tensor, ...]

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def weights(self) -> int:
        return int(self.layer.weight.numel())

    def macs(self, layer: nn.Module) -> int:
        """Return the multiply-accumulates of all calls together, were `layer` called."""
        device = next(layer.parameters()).device
        return sum(count_macs(layer, x.to(device)) * len(x) for x in self.inputs)


def find_sites(
    model: nn.Module, example: Tensor, ignore: Iterable[str] = ()
) -> tuple[list[LayerSite], dict[str, str]]:
    """Return the layers that others can take the place of, and why not those that cannot.

    Args:
        model: In eval mode; run a few times, and left as it was.
        example: What it is run on.
        ignore: Patterns of names of layers that stay.
    """
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        if _is_weighted(module):
            names[module].append(name)
    sites, reasons = [], {}
    inputs = _inputs(model, example, names)
    users = _users(model)
    for layer, known in names.items():
        reason = _reason(layer, known, tuple(ignore), users)
        if reason is None and not inputs.get(layer):
            reason = "does not run on the data"
        if reason is not None:
            reasons[known[0]] = reason
        else:
            sites.append(LayerSite(names=tuple(known), layer=layer, inputs=tuple(inputs[layer])))
    for site, problem in _cannot_be_replaced(model, example, sites):
        reasons[site.name] = problem
    return [site for site in sites if site.name not in reasons], reasons


def put(model: nn.Module, site: LayerSite, layer: nn.Module) -> nn.Module:
    """Put `layer` in all places of a site, and return the model."""
    for name in site.names:
        if not name:
            return layer
        parent, _, own = name.rpartition(".")
        model.get_submodule(parent)._modules[own] = layer
    return model


def _is_weighted(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd)


def _reason(
    layer: Any, names: list[str], ignore: tuple[str, ...], users: dict[Tensor, set[nn.Module]]
) -> str | None:
    for pattern in ignore:
        if any(fnmatchcase(name, pattern) for name in names):
            return f"ignored (`{pattern}`)"
    if getattr(layer, "transposed", False):
        return "a transposed convolution"
    groups = getattr(layer, "groups", 1)
    if groups > 1:
        kind = "depthwise" if groups == layer.in_channels else "grouped"
        return f"a {kind} convolution ({groups} groups)"
    # A subclass may compute something else in its forward.
    if type(layer) not in PLAIN:
        return f"a {type(layer).__name__}, not a plain layer of torch.nn"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "has hooks, which would be lost"
    # Two modules with one tensor, e.g. tied embeddings: factors of one would leave the other
    # behind.
    if any(len(users[tensor]) > 1 for tensor in layer.parameters()):
        return "shares its weight with another layer"
    return None


def _users(model: nn.Module) -> dict[Tensor, set[nn.Module]]:
    users: dict[Tensor, set[nn.Module]] = defaultdict(set)
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                users[parameter].add(module)
    return users


def _inputs(
    model: nn.Module, example: Tensor, layers: Iterable[nn.Module]
) -> dict[nn.Module, list[Tensor]]:
    """Run the model and return what each layer was given, call by call, on the CPU."""
    seen: dict[nn.Module, list[Tensor]] = defaultdict(list)

    def see(layer: nn.Module, given: tuple[Any, ...]) -> None:
        if given:
            seen[layer].append(given[0].detach().cpu().clone())  # it may be changed in place

    with hooked(layer.register_forward_pre_hook(see) for layer in layers):
        _outputs(model, example)
    return seen


def _cannot_be_replaced(
    model: nn.Module, example: Tensor, sites: list[LayerSite]
) -> list[tuple[LayerSite, str]]:
    """Return the sites whose layer the model does not only call, with what went wrong.

    A module that holds nothing but the layer computes the same, but has no `weight`.
    """
    expected = _outputs(model, example)
    # All at once first: most models only call their layers, and one run tells so.
    if _problem(model, example, expected, sites) is None:
        return []
    problems = [(site, _problem(model, example, expected, [site])) for site in sites]
    return [(site, problem) for site, problem in problems if problem is not None]


def _problem(
    model: nn.Module, example: Tensor, expected: Tensor, sites: list[LayerSite]
) -> str | None:
    try:
        for site in sites:
            model = put(model, site, nn.Sequential(site.layer).eval())
        outputs = _outputs(model, example)
    except Exception as error:  # whatever the model's own code raises
        return f"the model reads it by itself ({described(error)})"
    finally:
        for site in sites:
            model = put(model, site, site.layer)
    is_same = torch.allclose(outputs, expected, equal_nan=True)
    return None if is_same else "the model asks for its type"


def _outputs(model: nn.Module, example: Tensor) -> Tensor:
    with torch.no_grad():
        outputs: Tensor = call(model, example)
    return outputs
