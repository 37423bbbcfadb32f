"""Make the in-place operators of a traced graph functional, so that a quantizer can stand behind.

`relu_(x)` becomes `relu(x)`, and whoever read `x` after it reads the result. That is exact while
no other node looks at the same memory; where one does, torch's own functionalisation is needed,
which is exact too but takes several times as long as the tracing.
"""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from kdeploy.quantization.suppress_warnings import without_torch_noise

aten = torch.ops.aten


def functional_graph(program: ExportedProgram) -> GraphModule:
    """Return the program as a graph module without in-place operators."""
    graph_module = program.module(check_guards=False)
    assert isinstance(graph_module, GraphModule)
    mutating = [node for node in graph_module.graph.nodes if _mutates(node)]
    if any(_functional_overload(node) is None or _is_shared(node) for node in mutating):
        with without_torch_noise():
            graph_module = program.run_decompositions({}).module(check_guards=False)
        assert isinstance(graph_module, GraphModule)
        return graph_module
    for node in mutating:
        _replace(graph_module, node)
    return graph_module


def _mutates(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _functional_overload(node: Node) -> object | None:
    packet, overload = str(node.target).removeprefix("aten.").split(".")
    if not packet.endswith("_"):
        return None
    return getattr(getattr(aten, packet.removesuffix("_"), None), overload, None)


def _is_shared(node: Node) -> bool:
    """Return whether the mutated tensor may share its memory with another node's."""
    mutated = node.args[0]
    if not isinstance(mutated, Node) or mutated.op != "call_function":
        return True
    return _is_view(mutated) or any(_is_view(user) for user in mutated.users if user is not node)


def _is_view(node: Node) -> bool:
    """Return whether the node's output may be its input's memory; unknown operators may."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or node.op != "call_function":
        return node.op != "output"
    returns_alias = any(value.alias_info is not None for value in schema.returns)
    return (returns_alias and not schema.is_mutable) or node.target in (
        *(aten.contiguous.default, aten.reshape.default, aten.dropout.default),
        *(aten.flatten.using_ints, aten.chunk.default, aten.expand_as.default),
    )


def _replace(graph_module: GraphModule, node: Node) -> None:
    mutated = node.args[0]
    assert isinstance(mutated, Node)
    with graph_module.graph.inserting_before(node):
        functional = graph_module.graph.call_function(
            _functional_overload(node),  # type: ignore[arg-type]
            node.args,
            node.kwargs,
        )
    functional.meta.update(node.meta)
    position = {n: index for index, n in enumerate(graph_module.graph.nodes)}
    node.replace_all_uses_with(functional)
    mutated.replace_all_uses_with(
        functional, delete_user_cb=lambda user: position[user] > position[node]
    )
    graph_module.graph.erase_node(node)
