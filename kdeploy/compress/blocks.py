"""Blocks of a model: which may be dropped, and how one goes.

A block may be dropped when it gives back what it takes: one tensor in, one of the same shape out;
where it stood comes an `nn.Identity`. A member of a `ModuleList`, which the model's code may call
in any way, may go as well: the list gets shorter. Whether the model runs without one is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.torch_module.hooks import hooked
from kdeploy.torch_module.named_inputs import call


@dataclass(slots=True, kw_only=True, eq=False)
class Block:
    """A module that may go, and what is known of it."""

    name: str
    """In the given model; numbers in a list change when one goes."""
    module: nn.Module
    is_layer: bool
    """A member of a list or sequence, and no sequence itself: what is stacked to make depth."""
    is_cut_out: bool = False
    """Its list gets shorter; else an identity takes its place."""
    reason: str = ""
    """Why it stays whatever the measure says; empty when it may go."""
    divergence: float | None = None
    """What the outputs move without it, nats an item; as measured last."""
    is_dropped: bool = False


def find_blocks(model: nn.Module, example: Tensor) -> list[Block]:
    """Return the model's blocks, those that may go and those that may not, in its own order.

    A block is a module of several others that has weights: no layer of torch's, no activation.
    One that changes the shape is none.

    Args:
        model: In eval mode.
        example: A batch that it can run on.
    """
    runs = _runs(model, example)
    blocks = []
    for name, module in model.named_modules():
        if name and _is_block(module):
            run = runs[module]
            parent = model.get_submodule(name.rpartition(".")[0])
            is_listed = isinstance(parent, nn.ModuleList)
            # A list's members may be called by code of their own, which hooks do not see.
            if run.changes_shape or not (run.count or is_listed):
                continue
            is_stacked = isinstance(parent, nn.ModuleList | nn.Sequential)
            is_layer = is_stacked and not isinstance(module, nn.Sequential)
            block = Block(name=name, module=module, is_layer=is_layer)
            if run.count > 1:
                block.reason = f"runs {run.count} times"
            elif not run.is_plain:
                block.is_cut_out = is_listed
                block.reason = "" if is_listed else "is not called with one tensor for one tensor"
            blocks.append(block)
    return blocks


def is_inside(block: Block, other: Block) -> bool:
    """Tell whether a block is a part of another one."""
    return block.name.startswith(f"{other.name}.")


def drop(model: nn.Module, block: Block) -> Callable[[], None]:
    """Take a block out of the model, in place; return a function that puts it back."""
    module = block.module
    parent, name = next(
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if child is module
    )
    if block.is_cut_out:
        assert isinstance(parent, nn.ModuleList), f"`{block.name}` is in a list"
        index = int(name)
        del parent[index]
        # `insert` numbers the members behind it anew, as `del` did.
        return lambda: parent.insert(index, module)
    setattr(parent, name, nn.Identity())
    return lambda: setattr(parent, name, module)


def check_lists(model: nn.Module) -> None:
    """Raise AssertionError unless the members of every list are numbered from 0, none left out."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            found = list(module._modules)
            assert found == [str(n) for n in range(len(found))], f"`{name}` has members {found}"


@dataclass(slots=True)
class _Run:
    """How often a module was called, and with what."""

    count: int = 0
    is_plain: bool = False
    changes_shape: bool = False


def _runs(model: nn.Module, example: Tensor) -> dict[nn.Module, _Run]:
    runs = {module: _Run() for module in model.modules()}

    def look(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        run, given = runs[module], args[0] if args else None
        run.count += 1
        if isinstance(given, Tensor) and isinstance(out, Tensor):
            run.changes_shape |= given.shape != out.shape
            run.is_plain = len(args) == 1 and not kwargs

    handles = (module.register_forward_hook(look, with_kwargs=True) for module in runs)
    with hooked(handles), torch.no_grad():
        call(model, example)
    return runs


def _is_block(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and any(p.dim() > 1 for p in module.parameters())
