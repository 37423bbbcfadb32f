"""Blocks of a model: which may be dropped, what the model does without one, and how one goes.

A block may be dropped when it gives back what it takes: one tensor in, one of the same shape out.
Where it stood comes an `nn.Identity`; in a `ModuleList`, whose members the model's code may call
with more than a tensor (`transformers`), the list gets shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(slots=True, kw_only=True, eq=False)
class Block:
    """A module that may go, and what is known of it."""

    name: str
    """In the given model; numbers in a list change when one goes."""
    module: nn.Module
    divergence: float | None = None
    """What the outputs move when it is skipped, nats an item; as measured last."""
    is_dropped: bool = False
    reason: str = ""
    """Why it stays whatever the measure says; empty when it may go."""


@dataclass(slots=True)
class _Run:
    """How a module was called: as often as seen, and whether tensors kept their shape."""

    count: int = 0
    faults: list[str] = field(default_factory=list)


def find_blocks(model: nn.Module, example: Tensor) -> list[Block]:
    """Return the model's blocks, those that may go and those that may not, in its own order.

    A block is a module of several others that has weights: no layer, no activation.

    Args:
        model: In eval mode.
        example: A batch that it can run on.
    """
    modules = {name: module for name, module in model.named_modules() if name and _is_block(module)}
    runs = {name: _Run() for name in modules}
    hooks = [
        module.register_forward_hook(
            lambda module, args, kwargs, out, name=name: _look(runs[name], args, kwargs, out),
            with_kwargs=True,
        )
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    places = {name: isinstance(_parent(model, m)[0], nn.ModuleList) for name, m in modules.items()}
    return [
        Block(name=name, module=module, reason=_reason(runs[name], is_listed=places[name]))
        for name, module in modules.items()
        # Lists do not run; what changes the shape is no candidate, and nobody expects it to be.
        if runs[name].count and CHANGES not in runs[name].faults
    ]


CHANGES, SEVERAL = "gives back another shape", "is called with more than one tensor"


def is_inside(block: Block, other: Block) -> bool:
    """Tell whether a block is a part of another one."""
    return block.name.startswith(f"{other.name}.")


@contextmanager
def skipped(module: nn.Module) -> Iterator[None]:
    """Let a module give back what it takes while the block runs."""
    module.forward = _first
    try:
        yield
    finally:
        del module.forward


def drop(model: nn.Module, module: nn.Module) -> Callable[[], None]:
    """Take a module out of the model, in place; return a function that puts it back."""
    parent, name = _parent(model, module)
    if isinstance(parent, nn.ModuleList):
        index = int(name)
        del parent[index]
        return lambda: parent.insert(index, module)
    setattr(parent, name, nn.Identity())
    return lambda: setattr(parent, name, module)


def check_dropped(model: nn.Module) -> None:
    """Raise AssertionError where a module is only bypassed when it runs."""
    for name, module in model.named_modules():
        assert "forward" not in vars(module), f"`{name}` is skipped, and still there"


def _is_block(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and any(p.dim() > 1 for p in module.parameters())


def _look(run: _Run, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    run.count += 1
    more = [value for value in (*args[1:], *kwargs.values()) if value is not None]
    if not args or not isinstance(args[0], Tensor) or not isinstance(out, Tensor):
        run.faults.append(f"takes or gives back a {type(args[0] if args else None).__name__}")
    elif out.shape != args[0].shape or out.dtype != args[0].dtype:
        run.faults.append(CHANGES)
    elif more or len(args) > 1 or kwargs:
        run.faults.append(SEVERAL)


def _reason(run: _Run, *, is_listed: bool) -> str:
    if run.count > 1:
        return f"runs {run.count} times"
    faults = [fault for fault in run.faults if not (fault == SEVERAL and is_listed)]
    return faults[0] if faults else ""


def _parent(model: nn.Module, module: nn.Module) -> tuple[nn.Module, str]:
    return next(
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if child is module
    )


def _first(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x
