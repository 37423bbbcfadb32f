"""What autograd's graph knows of an operation: its name, its shapes, and what it joins or parts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


def joins_channels(node: Any, *, axis: int) -> bool:
    """Tell whether a concatenation joins channels, and not positions or tokens."""
    return dimension(node.grad_fn._saved_dim, shape_made(node)) == axis


def split_sizes(node: Any, *, axis: int | None) -> list[int]:
    """Return the channels of each part of a split; none when it does not part channels."""
    if axis is None or dimension(node.grad_fn._saved_dim, shape_given(node)) != axis:
        return []
    parts = range(len(node.grad_fn._input_metadata))
    return [shape_made(node, part)[axis] for part in parts]


def operation(node: Any) -> str:
    """Return autograd's name of what a node does, without dimensions and version."""
    name = node.grad_fn.name() if hasattr(node.grad_fn, "name") else ""
    return re.sub(r"(\dD|Nd)?(WithIndices)?Backward\d*$", "", name)


def shape_made(node: Any, number: int = 0) -> tuple[int, ...]:
    """Return the shape of one of an operation's results."""
    return tuple(node.grad_fn._input_metadata[number].shape)  # what its backward is given


def shape_given(node: Any) -> tuple[int, ...]:
    """Return the shape of an operation's input, () where autograd did not keep it."""
    return tuple(getattr(node.grad_fn, "_saved_self_sym_sizes", ()))


def dimension(dim: int, shape: Sequence[int]) -> int:
    """Return a dimension, counted from the start."""
    # Autograd keeps negative dimensions as unsigned 64-bit numbers.
    return (dim - 2**64 if dim >= 2**63 else dim) % len(shape)
