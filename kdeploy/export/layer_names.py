"""The layer of a model that an operator of its file is a part of, for people.

Files do not say it: their operators are called as torch's tracer calls them. So the model is traced
once more, and where names differ the nearest weights before the operator say about where it is.
"""

from __future__ import annotations

from onnx import GraphProto, NodeProto
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.quantization.capture import capture

OF_THE_EXPORTER = "node_"


def layer_of(model: nn.Module, graph: GraphProto, node: NodeProto) -> str:
    """Return e.g. "layer `norm` (`Pow`, `node_pow_1`)"."""
    operator = f"`{node.op_type}`, `{node.name or node.output[0]}`"
    known = _traced(model, graph).get(node.name.removeprefix(OF_THE_EXPORTER))
    if known:
        return f"layer `{known}` ({operator})"
    behind = _weights_before(graph, node)
    if behind:
        return f"an operator behind layer `{behind}` ({operator})"
    return f"the operator {operator}"


def _traced(model: nn.Module, graph: GraphProto) -> dict[str, str]:
    """Return the module of each operator that torch traces; none of a file."""
    if isinstance(model, OnnxModel):
        return {}
    import torch

    shape = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim][1:]
    is_integer = graph.input[0].type.tensor_type.elem_type == 7
    example = torch.ones(2, *shape, dtype=torch.int64 if is_integer else torch.float32)
    try:
        traced = capture(model, example)
    except ModelError:
        return {}
    stacks = {n.name: n.meta.get("nn_module_stack") or {} for n in traced.graph.nodes}
    return {name: str(list(stack.values())[-1][0]) for name, stack in stacks.items() if stack}


def _weights_before(graph: GraphProto, node: NodeProto) -> str | None:
    """Return the layer whose weights are the nearest before a node."""
    makers = {output: n for n in graph.node for output in n.output}
    # Parameters are called by their path; constants of the exporter have no dot.
    held = {t.name for t in graph.initializer if "." in t.name}
    level, seen = [node], set[str]()
    while level:
        for one in level:
            for name in one.input:
                if name in held:
                    return str(name).rpartition(".")[0]
        names = {name for one in level for name in one.input} - seen
        seen |= names
        level = [makers[name] for name in names if name in makers]
    return None
