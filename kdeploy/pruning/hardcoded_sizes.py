"""Find where the code between the layers fixes the number of channels.

Autograd's graph does not show it: a tensor that is no parameter takes part in a sum, or a split
names its sizes. The channels that pass there stay, unless the sizes are a module's attribute.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch_pruning.ops import OPTYPE

from kdeploy.pruning.calls import Call
from kdeploy.pruning.operations import split_sizes
from kdeploy.pruning.size_attributes import path_of_list
from kdeploy.pruning.tracing import ChannelGraph


def fixed_nodes(graph: ChannelGraph) -> set[Any]:
    """Return the nodes of the graph whose channels the code has fixed."""
    calls = _calls_by_node(graph)
    fixed = {
        node
        for node, call in calls.items()
        if node.type == OPTYPE.ELEMENTWISE and _meets_constant(call, graph.axes.made.get(node))
    }
    return fixed | {node for node, call in calls.items() if _states_sizes(graph, node, call)}


def stated_splits(graph: ChannelGraph, model: nn.Module) -> dict[Any, str]:
    """Return the splits whose sizes are a list that a module keeps, and the path of the list."""
    found = {}
    for node, call in _calls_by_node(graph).items():
        if _states_sizes(graph, node, call):
            sizes = split_sizes(node, axis=graph.axes.given(node))
            path = path_of_list(model, call.module, sizes)
            if path is not None:
                found[node] = path
    return found


def _calls_by_node(graph: ChannelGraph) -> dict[Any, Call]:
    makers = {tensor.grad_fn: call for call in graph.calls for tensor in call.results}
    return {node: makers[node.grad_fn] for node in graph.nodes if node.grad_fn in makers}


def _states_sizes(graph: ChannelGraph, node: Any, call: Call) -> bool:
    # `chunk` follows the channels; whoever splits by sizes states them.
    is_split = node.type == OPTYPE.SPLIT and call.name.startswith("split")
    return is_split and bool(split_sizes(node, axis=graph.axes.given(node)))


def _meets_constant(call: Call, axis: int | None) -> bool:
    """Tell whether a tensor that nobody learns has a number for each channel of the result."""
    if axis is None:
        return False  # it is not explained
    from_end = call.results[0].dim() - axis
    return any(
        _is_constant(tensor) and tensor.dim() >= from_end and tensor.shape[-from_end] > 1
        for tensor in call.tensors
    )


def _is_constant(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not tensor.requires_grad
