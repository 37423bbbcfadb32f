"""What operations between layers do to channels: which are harmless, and which mix them.

Read from autograd's graph, in which each operation knows the shape that it made and keeps what it
was given. Where no rule here explains an operation, the channels that pass through it are frozen.
"""

from __future__ import annotations

import re
from typing import Any

from torch_pruning.ops import OPTYPE

# Operations that treat all channels alike, as autograd names them.
_HARMLESS = """
Abs Add Alias Amax Amin Celu Clamp Clone Div Elu Exp Gelu Hardsigmoid Hardswish Hardtanh LeakyRelu
Log LogSigmoid Max Maximum Mean Min Minimum Mish Mul Neg Permute Pow Prelu Reciprocal Relu Rsqrt
Sigmoid Silu Softmax Softplus Sqrt Squeeze Std Sub Sum T Tanh Threshold ToCopy Transpose Unsqueeze
Var Where AdaptiveAvgPool AdaptiveMaxPool AvgPool ChannelShuffle ConstantPad MaxPool ReflectionPad
ReplicationPad UpsampleBicubic UpsampleBilinear UpsampleLinear UpsampleNearest
UpsampleNearestExact
"""
_REDUCTIONS = ("Amax", "Amin", "Max", "Mean", "Min", "Std", "Sum", "Var")


def is_explained(node: Any) -> bool:
    """Tell whether the channels of a node of the graph can be followed through it."""
    match node.type:
        case OPTYPE.ELEMENTWISE:
            return operation(node) in _HARMLESS.split() or _is_inside_linear(node)
        case OPTYPE.RESHAPE:
            return _keeps_channels(shape_given(node), shape_made(node))
        case OPTYPE.SLICE:
            return not _cuts_channels(node)
        case OPTYPE.SPLIT:
            sizes = node.module.split_sizes
            return sizes is None or len(set(sizes)) == 1
        case OPTYPE.EXPAND:
            return len(shape_made(node)) <= 4
        case OPTYPE.MHA | OPTYPE.LSTM | OPTYPE.UNBIND | OPTYPE.CUSTOMIZED:
            return False
        case OPTYPE.DEPTHWISE_CONV:
            return bool(node.module.in_channels == node.module.out_channels)
        case OPTYPE.CONV:
            return node.module.groups == 1 or not node.module.transposed
    return True


def reduces_channels(node: Any) -> bool:
    """Tell whether a node sums up all channels of images: what follows has other channels."""
    given = shape_given(node)
    if node.type != OPTYPE.ELEMENTWISE or operation(node) not in _REDUCTIONS or len(given) < 4:
        return False
    dims = getattr(node.grad_fn, "_saved_dim", ())
    return [_dim(d, given) for d in (dims if isinstance(dims, tuple) else (dims,))] == [1]


def joins_channels(node: Any) -> bool:
    """Tell whether a concatenation joins channels, and not positions or tokens."""
    made = shape_made(node)
    dim = _dim(node.grad_fn._saved_dim, made)
    # Of three dimensions: (batch, channels, length) if torch-pruning found layers that fit.
    return dim == 1 and (len(made) != 3 or node.module.offsets is not None)


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


def _dim(dim: int, shape: tuple[int, ...]) -> int:
    # Autograd keeps negative dimensions as unsigned 64-bit numbers.
    return (dim - 2**64 if dim >= 2**63 else dim) % len(shape)


def _keeps_channels(given: tuple[int, ...], made: tuple[int, ...]) -> bool:
    """Tell whether a reshape keeps channels in order; flattening a map counts, heads do not."""
    if len(given) < 2 or len(made) < 2:
        return False
    if given[:2] == made[:2] or (given[0] == made[0] and 2 in (len(given), len(made))):
        return True
    return given[-1] == made[-1] and not {2, 3}.isdisjoint((len(given), len(made)))


def _is_inside_linear(node: Any) -> bool:
    # On tokens (batch, length, channels) a linear layer is a product between two reshapes.
    is_product = operation(node) in ("Addmm", "Mm")
    return is_product and all(reader.type == OPTYPE.LINEAR for reader in node.outputs)


def _cuts_channels(node: Any) -> bool:
    given, made = shape_given(node), shape_made(node)
    dim = _dim(node.grad_fn._saved_dim, given)
    return (dim == 1 or (dim == 2 and len(given) == 3)) and given[dim] != made[dim]
