"""Gradient checkpointing: the backward pass computes the activations of repeated blocks again.

Chen et al. 2016, arXiv:1604.06174: between two blocks only what goes into the next one is kept, and
the rest of one block at a time. The same gradients for one more forward pass: dropout draws the
same numbers again, and running statistics take in a batch once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdeploy.data.contract import Dataset
from kdeploy.errors import ModelError
from kdeploy.torch_module.hooks import hooked
from kdeploy.torch_module.model_outputs import answer_of
from kdeploy.training.predict import two_items


@contextmanager
def checkpointed(model: nn.Module, data: Dataset) -> Iterator[None]:
    """Let the blocks of a model keep nothing but their inputs inside the `with`.

    Args:
        model: What is trained.
        data: Shows which blocks the model calls.

    Raises:
        ModelError: it has no repeated blocks that it calls.
    """
    blocks = called_blocks(model, data)
    if not blocks:
        raise ModelError(
            "`checkpoint_activations` computes repeated blocks again, and"
            f" `{type(model).__name__}` calls no two of one class in a list or sequence",
            hint="leave it out; `accumulate: 4` takes less memory too, with any model",
        )
    with ExitStack() as stack:
        for block in blocks.values():
            stack.enter_context(_replaced(vars(block), "forward", _recomputing(block)))
        for config in _caching(model):
            stack.enter_context(_replaced(vars(config), "use_cache", False))
        yield


def called_blocks(model: nn.Module, data: Dataset) -> dict[str, nn.Module]:
    """Return by name the outermost repeated blocks that a model calls."""
    blocks, called = repeated_blocks(model), set()
    handles = [
        block.register_forward_pre_hook(lambda module, _: called.add(module))
        for block in blocks.values()
    ]
    with hooked(handles):
        answer_of(model, two_items(model, data), role="the student", several=True)
    return {name: block for name, block in blocks.items() if block in called}


def repeated_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Return by name the modules with layers inside of which a list or sequence has several.

    Several of one class; of blocks inside of blocks the outermost.
    """
    found: dict[str, nn.Module] = {}
    for name, container in model.named_modules():
        is_inside = any(f"{name}.".startswith(f"{block}.") for block in found)
        if is_inside or not isinstance(container, nn.ModuleList | nn.Sequential):
            continue
        count = Counter(type(child) for child in container)
        for place, child in container.named_children():
            if count[type(child)] > 1 and next(child.children(), None) is not None:
                found[f"{name}.{place}" if name else place] = child
    return found


def _recomputing(block: nn.Module) -> Any:
    inner = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return inner(*args, **kwargs)
        contexts = partial(_contexts, _Before(block))
        return checkpoint(inner, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return forward


def _contexts(before: _Before) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), before


class _Before:
    """Lets a block compute with the buffers that it had, and leaves those of now as they are.

    A class: the backward pass may come by several times.
    """

    def __init__(self, block: nn.Module) -> None:
        # Statistics and counters; not codes and masks, which are large and stay.
        self._then = [
            (module._buffers, name, value.clone())
            for module in block.modules()
            for name, value in module._buffers.items()
            if value is not None and (value.is_floating_point() or value.numel() == 1)
        ]
        self._now: list[Tensor | None] = []

    def __enter__(self) -> None:
        self._now = [buffers[name] for buffers, name, _ in self._then]
        for buffers, name, value in self._then:
            buffers[name] = value.clone()

    def __exit__(self, *_: object) -> None:
        for (buffers, name, _value), now in zip(self._then, self._now, strict=True):
            buffers[name] = now


def _caching(model: nn.Module) -> list[Any]:
    """Return the configurations of transformers models that keep keys and values of each call."""
    found = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    return [config for config in found.values() if getattr(config, "use_cache", False) is True]


@contextmanager
def _replaced(attributes: dict[str, Any], name: str, value: Any) -> Iterator[None]:
    had: Mapping[str, Any] = {name: attributes[name]} if name in attributes else {}
    attributes[name] = value
    try:
        yield
    finally:
        del attributes[name]
        attributes.update(had)
