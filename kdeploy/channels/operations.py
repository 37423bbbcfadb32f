"""What operations between layers do to channels: which are harmless, and which mix them.

Read from autograd's graph, in which each operation knows the shape that it made and keeps what it
was given. Where no rule here explains an operation, the channels that pass through it are frozen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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


def is_explained(node: Any, *, is_tokens: bool) -> bool:
    """Tell whether the channels of a node of the graph can be followed through it.

    Args:
        node: Of torch-pruning's graph.
        is_tokens: Three dimensions are (batch, length, channels), not (batch, channels, length).
    """
    match node.type:
        case OPTYPE.ELEMENTWISE:
            return (
                operation(node) in _HARMLESS.split()
                or _is_inside_linear(node)
                or _is_inside_norm(node)
                or (is_tokens and _takes_token(node))
            )
        case OPTYPE.RESHAPE:
            given, made = shape_given(node), shape_made(node)
            is_kept = _keeps_channels(given, made, is_tokens=is_tokens)
            return is_kept or is_flattening(given, made)
        case OPTYPE.SLICE:
            given, made = shape_given(node), shape_made(node)
            channels = channel_dimension(given, is_tokens=is_tokens)
            return given[channels] == made[channels]
        case OPTYPE.SPLIT:
            return len(set(split_sizes(node, is_tokens=is_tokens))) <= 1
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
    """Tell whether a node sums up all channels of maps: what follows has other channels."""
    given = shape_given(node)
    if node.type != OPTYPE.ELEMENTWISE or operation(node) not in _REDUCTIONS or len(given) < 4:
        return False
    dims = getattr(node.grad_fn, "_saved_dim", ())
    return [_dim(d, given) for d in (dims if isinstance(dims, tuple) else (dims,))] == [1]


def joins_channels(node: Any, *, is_tokens: bool) -> bool:
    """Tell whether a concatenation joins channels, and not positions or tokens."""
    made = shape_made(node)
    return _dim(node.grad_fn._saved_dim, made) == channel_dimension(made, is_tokens=is_tokens)


def split_sizes(node: Any, *, is_tokens: bool) -> list[int]:
    """Return the channels of each part of a split; none when it does not part channels."""
    given = shape_given(node)
    channels = channel_dimension(given, is_tokens=is_tokens)
    if _dim(node.grad_fn._saved_dim, given) != channels:
        return []
    parts = range(len(node.grad_fn._input_metadata))
    return [shape_made(node, part)[channels] for part in parts]


def channel_dimension(shape: Sequence[int], *, is_tokens: bool) -> int:
    """Return which dimension of a tensor the channels are."""
    return 2 if len(shape) == 3 and is_tokens else 1


def is_flattening(given: Sequence[int], made: Sequence[int]) -> bool:
    """Tell whether one shape is (batch, all the rest), and the other has more dimensions."""
    return given[:1] == made[:1] and 2 in (len(given), len(made)) and len(given) != len(made)


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


def _keeps_channels(given: Sequence[int], made: Sequence[int], *, is_tokens: bool) -> bool:
    """Tell whether a reshape keeps channels in order: (N, C, ...) or rows of tokens (..., C)."""
    if len(given) < 2 or len(made) < 2:
        return False
    is_rows = given[-1] == made[-1] and not {2, 3}.isdisjoint((len(given), len(made)))
    is_heads = is_tokens and len(given) == 3 and given[-1] != made[-1]
    return is_rows or (given[:2] == made[:2] and not is_heads)


def _is_inside_linear(node: Any) -> bool:
    # On tokens (batch, length, channels) a linear layer is a product between two reshapes.
    readers = node.outputs
    if operation(node) not in ("Addmm", "Mm") or len(readers) != 1:
        return False
    after = readers[0].outputs if readers[0].type == OPTYPE.RESHAPE else readers
    return [reader.type for reader in after] == [OPTYPE.LINEAR]


def _is_inside_norm(node: Any) -> bool:
    # A layer norm of maps runs on (batch, y, x, channels), between two transpositions.
    is_norm = operation(node) == "NativeLayerNorm"
    return is_norm and [reader.type for reader in node.outputs] == [OPTYPE.LN]


def _takes_token(node: Any) -> bool:
    given = shape_given(node)
    is_select = operation(node) == "Select" and len(given) == 3
    return is_select and _dim(node.grad_fn._saved_dim, given) == 1
