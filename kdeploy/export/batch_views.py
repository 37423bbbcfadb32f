"""Write reshapes that keep the batch without its size: converters know no sizes made of others.

`flatten`, `squeeze` and the like become `view(x, [-1, ...])`, of what was permuted `reshape`: one
operator with numbers alone, where torch.export computes the batch size and passes it on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten
RESHAPES = (
    *(aten.flatten.using_ints, aten.reshape.default, aten.view.default),
    *(aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default),
)


def write_batch_views(graph_module: GraphModule) -> GraphModule:
    """Return the graph, changed in place: only reshapes whose batch alone is open are written."""
    for node in graph_module.graph.nodes:
        sizes = _sizes_behind_batch(node)
        if node.target not in RESHAPES or sizes is None:
            continue
        with graph_module.graph.inserting_before(node):
            view = graph_module.graph.call_function(_kind(node), (node.args[0], [-1, *sizes]))
        view.meta = dict(node.meta)
        node.replace_all_uses_with(view)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def _kind(node: Node) -> Any:
    """Return `view` where the memory of what is read lies as its axes say, which it demands."""
    value = node.all_input_nodes[0].meta.get("val")
    is_plain = isinstance(value, torch.Tensor) and value.is_contiguous()
    return aten.view.default if is_plain else aten.reshape.default


def _sizes_behind_batch(node: Node) -> list[int] | None:
    """Return the fixed sizes of a tensor, None where others than the batch are open."""
    given, taken = _shape(node), _shape(*node.all_input_nodes[:1])
    if not given or not taken or isinstance(given[0], int) or str(given[0]) != str(taken[0]):
        return None
    if not all(isinstance(size, int) for size in given[1:]):
        return None
    return [int(size) for size in given[1:]]


def _shape(*nodes: Node) -> tuple[Any, ...]:
    """Return the shape of a tensor; quantizers, which keep it, may not say it themselves."""
    for node in nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            return tuple(value.shape)
        if "quantize" in str(node.target):
            return _shape(*node.all_input_nodes[:1])
    return ()
