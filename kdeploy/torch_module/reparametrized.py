"""Weights that are computed from other tensors, as weight norm does: known, and made plain.

PyTorch has two forms. The old one (`torch.nn.utils.weight_norm`, `spectral_norm`, `prune`) computes
a plain attribute before each call of the layer; the new one (`torch.nn.utils.parametrizations`)
gives the layer a class of its own. In evaluation mode both are constants.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_HOOKS = (WeightNorm, SpectralNorm, prune.BasePruningMethod)


def computed_weights(model: nn.Module) -> dict[str, str]:
    """Return by name which weights are computed, and by what, e.g. `WeightNorm`."""
    found = {}
    for path, module in model.named_modules():
        for name, kind in (*_by_hooks(module), *_by_parametrizations(module)):
            found[f"{path}.{name}" if path else name] = kind
    return found


def is_computed(module: nn.Module) -> bool:
    """Tell whether a weight of a module itself is computed before each call."""
    return any(True for _ in _by_hooks(module))


def with_plain_weights(model: nn.Module) -> nn.Module:
    """Return a copy that holds the weights of evaluation mode, and nothing that computes them."""
    let_go(model)
    twin = copy.deepcopy(model)
    made: dict[nn.Module, nn.Module] = {}
    for path, module in list(twin.named_modules(remove_duplicate=False)):
        for hook in _hooks(module):
            _make_plain(module, hook)
        if parametrize.is_parametrized(module):
            if module not in made:
                made[module] = _plain(module)
            twin = _put(twin, path, made[module])
    return twin


def let_go(model: nn.Module) -> None:
    """Cut weights that hooks computed off the graph of their last call: no copy holds a graph."""
    for module in model.modules():
        for name, _ in _by_hooks(module):
            value = vars(module).get(name)
            if isinstance(value, Tensor):
                setattr(module, name, value.detach())


def _hooks(module: nn.Module) -> list[Any]:
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, _HOOKS)]


def _by_hooks(module: nn.Module) -> Iterator[tuple[str, str]]:
    for hook in _hooks(module):
        yield str(getattr(hook, "name", getattr(hook, "_tensor_name", ""))), type(hook).__name__


def _by_parametrizations(module: nn.Module) -> Iterator[tuple[str, str]]:
    if parametrize.is_parametrized(module):
        for name, steps in module.parametrizations.items():  # type: ignore[union-attr, operator]
            yield name, ", ".join(type(step).__name__.lstrip("_") for step in steps)


def _make_plain(module: nn.Module, hook: Any) -> None:
    """Take a hook away and leave what it computes; the layer's parameters keep their order."""
    asks = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    others = dict(module._parameters)
    if isinstance(hook, WeightNorm):
        name = hook.name
        remove_weight_norm(module, name)
    elif isinstance(hook, SpectralNorm):
        name = hook.name
        # In training mode it would take one more step of the power iteration.
        training, module.training = module.training, False
        remove_spectral_norm(module, name)
        module.training = training
    else:
        name = hook._tensor_name
        prune.remove(module, name)  # type: ignore[no-untyped-call]
    # torch appends what it leaves; the state's order is part of what an artefact compares.
    _first(module, name, module._parameters[name], asks, others)


def _first(
    module: nn.Module, name: str, value: Any, asks: bool, others: dict[str, nn.Parameter | None]
) -> None:
    plain = nn.Parameter(value.detach().clone(), requires_grad=asks)
    kept = {n: p for n, p in module._parameters.items() if n != name and n in others}
    module._parameters.clear()
    module._parameters.update({name: plain, **kept})


def _plain(module: nn.Module) -> nn.Module:
    """Return a module of the class that was parametrized; the copy shares its class with others."""
    computed = {}
    training = module.training
    module.eval()
    with torch.no_grad():
        for name, steps in module.parametrizations.items():  # type: ignore[union-attr, operator]
            asks = any(parameter.requires_grad for parameter in steps.parameters())
            computed[name] = nn.Parameter(getattr(module, name).detach().clone(), asks)
    module.train(training)
    # The class before torch put its own in front.
    kind: Any = type(module).__mro__[1]
    twin: nn.Module = kind.__new__(kind)
    twin.__dict__.update(vars(module))
    twin._modules = {n: m for n, m in module._modules.items() if n != "parametrizations"}
    twin._parameters = {**computed, **module._parameters}
    return twin


def _put(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    if not path:
        return module
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module
    return model
