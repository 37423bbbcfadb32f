"""The tensors of models and optimizers: copied, put back, laid out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


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
        model.load_state_dict(weights)
        optimizer.load_state_dict(averages)


def lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    """Give all tensors of images the layout, in place."""
    # Not `model.to`: it refuses the layout of images where one weight is of clips, of five axes.
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            # By `.data`: the parameter stays the same object, which the optimizer knows.
            tensor.data = tensor.data.contiguous(memory_format=layout)
