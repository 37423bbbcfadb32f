"""The tensors of models and optimizers: copied, put back, laid out, divided among processes.

A divided tensor is torch's DTensor. Checkpoints hold whole ones, so that a training goes on with
another number of processes, and divided or not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def copied(model: nn.Module) -> dict[str, Any]:
    """Return a copy of a model's state."""
    state = model.state_dict()
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}


@contextmanager
def unchanged(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Put back, after the `with`, what both were before it."""
    weights, averages = copied(model), copy.deepcopy(optimizer.state_dict())
    try:
        yield
    finally:
        put_into(model, weights)
        optimizer.load_state_dict(averages)


def lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    """Give all tensors of images the layout, in place."""
    # Not `model.to`: it refuses the layout of images where one weight is of clips, of five axes.
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            # By `.data`: the parameter stays the same object, which the optimizer knows.
            tensor.data = tensor.data.contiguous(memory_format=layout)


def put_into(model: nn.Module, state: Mapping[str, Any], *, strict: bool = True) -> None:
    """Load a state into a model, of whole tensors or divided as the model's are."""
    own = model.state_dict()
    model.load_state_dict({k: divided(v, own.get(k)) for k, v in state.items()}, strict=strict)


def put_into_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a state of whole tensors into an optimizer of parameters that may be divided."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    averages = {
        place: {
            # Counters of steps are no averages of the parameter, and have no shape.
            name: divided(value, parameters[place]) if getattr(value, "ndim", 0) else value
            for name, value in known.items()
        }
        for place, known in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": averages})


def divided(value: Any, like: Any) -> Any:
    """Return a whole tensor divided as another one is; the same where that is whole."""
    if not is_divided(like) or is_divided(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    # No source: every process has the whole one, and takes its own part of it.
    there = value.to(like.device)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)


def is_divided(value: Any) -> TypeGuard[DTensor]:
    """Return whether a value is a tensor of which each process holds a part."""
    # Not by its class: importing that takes seconds, and most trainings have none.
    return hasattr(value, "full_tensor")


def part_of(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, in the same memory."""
    return tensor.to_local() if is_divided(tensor) else tensor


def whole(state: Any, *, is_kept: bool) -> Any:
    """Return a nested state with whole tensors on the CPU instead of divided ones.

    All processes call it with the same state.

    Args:
        state: Of mappings, lists, tensors and plain values.
        is_kept: Whether this process wants them; None stands for the tensors in the others.
    """
    if is_divided(state):
        gathered = state.full_tensor()
        return gathered.cpu() if is_kept else None
    if isinstance(state, Mapping):
        return {k: whole(v, is_kept=is_kept) for k, v in state.items()}
    if isinstance(state, list):
        return [whole(v, is_kept=is_kept) for v in state]
    return state
