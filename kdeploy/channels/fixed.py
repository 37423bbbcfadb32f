"""Find where the code between the layers fixes the number of channels.

Autograd's graph does not show it: a tensor that is no parameter takes part in a sum, or a split
names its sizes. The channels that pass there stay.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch_pruning.ops import OPTYPE

from kdeploy.channels.calls import Call
from kdeploy.channels.operations import channel_dimension, split_sizes
from kdeploy.channels.tracing import Graph


def fixed_nodes(graph: Graph) -> set[Any]:
    """Return the nodes of the graph whose channels the code has fixed."""
    makers = {tensor.grad_fn: call for call in graph.calls for tensor in call.results}
    found = set()
    for node in graph.nodes:
        call = makers.get(node.grad_fn)
        if call is None:
            continue
        if node.type == OPTYPE.ELEMENTWISE and _meets_constant(call, is_tokens=graph.is_tokens):
            found.add(node)
        # `chunk` follows the channels; whoever splits by sizes states them.
        is_split = node.type == OPTYPE.SPLIT and call.name.startswith("split")
        if is_split and split_sizes(node, is_tokens=graph.is_tokens):
            found.add(node)
    return found


def _meets_constant(call: Call, *, is_tokens: bool) -> bool:
    """Tell whether a tensor that nobody learns has a number for each channel of the result."""
    shape = call.results[0].shape
    from_end = len(shape) - channel_dimension(shape, is_tokens=is_tokens)
    return any(
        _is_constant(tensor) and tensor.dim() >= from_end and tensor.shape[-from_end] > 1
        for tensor in call.tensors
    )


def _is_constant(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not tensor.requires_grad
