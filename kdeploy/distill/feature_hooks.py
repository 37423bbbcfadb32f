"""Forward hooks: read what inner modules return, named by their dotted path, in one forward pass.

`PATH:input` is what goes into a module, its first argument. Of a module that returns several
things, as recurrent layers and attention do (outputs, state), it is the first: the outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from kdeploy.errors import ModelError, UnknownName

# What DataParallel, DDP and torch.compile put in front of the names of a model.
WRAPPERS = ("module.", "_orig_mod.")
INPUT = ":input"


def modules_at(model: nn.Module, paths: Sequence[str], *, role: str) -> dict[str, nn.Module]:
    """Return the modules at dotted paths, whether or not the model is wrapped.

    Raises:
        UnknownName: there is no such layer; the hint names the nearest.
    """
    exact = {name: module for name, module in model.named_modules() if name}
    bare = {stripped(name): module for name, module in exact.items()}
    known = {**bare, **exact}
    places = {path: path.removesuffix(INPUT) for path in paths}
    for place in places.values():
        if place not in known and stripped(place) not in bare:
            raise UnknownName.among("layer", place, bare.keys() - {""}, where=f"the {role}")
    return {
        path: known[place] if place in known else bare[stripped(place)]
        for path, place in places.items()
    }


@contextmanager
def features_of(
    model: nn.Module, paths: Sequence[str], *, role: str
) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary that forward passes inside the `with` fill; no hook is left behind.

    Raises:
        UnknownName: there is no such layer.
        ModelError: a layer does not return a tensor, or runs twice in a pass.
    """
    features: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for path, module in modules_at(model, paths, role=role).items():
            hooks.enter_context(_watched(module, path, features, role))
        yield features


@contextmanager
def replaced(model: nn.Module, features: Mapping[str, Tensor], *, role: str) -> Iterator[None]:
    """Let layers return given tensors inside the `with`; `PATH:input` is what goes into one.

    Raises:
        UnknownName: there is no such layer.
    """
    with ExitStack() as hooks:
        for path, module in modules_at(model, tuple(features), role=role).items():
            hooks.enter_context(_returning(module, path, features[path]))
        yield


def stripped(path: str) -> str:
    """Return the path without what wrappers put in front of it."""
    while path.startswith(WRAPPERS):
        path = path.partition(".")[2]
    # A compiled block inside a model: `layers.0._orig_mod.conv`.
    parts = [part for part in path.split(".") if part != "_orig_mod"]
    return "" if parts == ["module"] else ".".join(parts)


def _returning(module: nn.Module, path: str, value: Tensor) -> RemovableHandle:
    if path.endswith(INPUT):
        return module.register_forward_pre_hook(lambda _, given: (value, *given[1:]))
    return module.register_forward_hook(
        lambda _, given, made: type(made)((value, *made[1:])) if isinstance(made, tuple) else value
    )


def _watched(
    module: nn.Module, path: str, features: dict[str, Tensor], role: str
) -> RemovableHandle:
    def keep(value: Any, does: str) -> None:
        while isinstance(value, tuple | list) and value and not isinstance(value, PackedSequence):
            value = value[0]
        if not isinstance(value, Tensor):
            raise ModelError(
                f"the layer `{path}` of the {role} {does} {type(value).__name__}, not a tensor",
                hint="name a layer inside or after it that returns one tensor",
            )
        if path in features:
            raise ModelError(
                f"the layer `{path}` of the {role} runs more than once in a forward pass",
                hint="name a layer that runs once: a convolution, a norm or a whole block",
            )
        # A copy: an activation in place, or `out += x`, would overwrite what is kept.
        features[path] = value.clone()

    # What it takes is looked at before it runs, because it may change that.
    if path.endswith(INPUT):
        return module.register_forward_pre_hook(
            lambda _, given: keep(next(iter(given), None), "takes")
        )
    return module.register_forward_hook(lambda _, given, made: keep(made, "returns"))
