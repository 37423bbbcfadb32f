"""Which operations between layers treat all channels alike, and which mix them.

Where no rule here explains an operation, the channels that pass through it are frozen.
"""

from __future__ import annotations

from typing import Any

from torch_pruning.ops import OPTYPE

from kdeploy.pruning.axes import PASSING, REDUCTIONS, Axes, dimensions_gone
from kdeploy.pruning.operations import operation, shape_given, shape_made, split_sizes

# Operations that treat all channels alike, as autograd names them.
_HARMLESS = """
Abs Add Alias Amax Amin Celu Clamp Clone Div Elu Exp Gelu Hardsigmoid Hardswish Hardtanh LeakyRelu
Log LogSigmoid Max Maximum Mean Min Minimum Mish Mul Neg Permute Pow Prelu Reciprocal Relu Rsqrt
Sigmoid Silu Softmax Softplus Sqrt Squeeze Std Sub Sum T Tanh Threshold ToCopy Transpose Unsqueeze
Var Where AdaptiveAvgPool AdaptiveMaxPool AvgPool ChannelShuffle ConstantPad MaxPool ReflectionPad
ReplicationPad UpsampleBicubic UpsampleBilinear UpsampleLinear UpsampleNearest
UpsampleNearestExact
"""
_NEVER = (OPTYPE.MHA, OPTYPE.LSTM, OPTYPE.UNBIND, OPTYPE.CUSTOMIZED)


def is_explained(node: Any, axes: Axes) -> bool:
    """Tell whether the channels of a node of the graph can be followed through it."""
    axis, given = axes.made.get(node), axes.given(node)
    if node.type in _NEVER or (node in axes.flow and node.type in PASSING and axis is None):
        return False
    match node.type:
        case OPTYPE.ELEMENTWISE:
            is_inside = _is_inside_linear(node) or _is_inside_norm(node)
            is_taken = operation(node) == "Select" and axis is not None
            return operation(node) in _HARMLESS.split() or is_inside or is_taken
        case OPTYPE.RESHAPE:
            return all((given, axis) in axes.pairs[s, node] for s in node.inputs if s in axes.flow)
        case OPTYPE.SLICE:
            before, after = shape_given(node), shape_made(node)
            return given is not None and before[given] == after[given]
        case OPTYPE.SPLIT:
            return len(set(split_sizes(node, axis=given))) <= 1
        case OPTYPE.LN:
            return len(node.module.normalized_shape) == 1
        case OPTYPE.DEPTHWISE_CONV:
            return bool(node.module.in_channels == node.module.out_channels)
        case OPTYPE.CONV:
            return node.module.groups == 1 or not node.module.transposed
    return True


def reduces_channels(node: Any, axes: Axes) -> bool:
    """Tell whether a node sums up all channels: what follows has other channels."""
    is_sum = node.type == OPTYPE.ELEMENTWISE and operation(node) in REDUCTIONS
    given = axes.given(node)
    if not is_sum or given is None or len(node.inputs) != 1:
        return False
    return given in dimensions_gone(node, shape_made(node.inputs[0]))


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
