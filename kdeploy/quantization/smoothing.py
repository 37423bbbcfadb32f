"""SmoothQuant: move outlying channels from a layer norm's output into the weights that read it.

Xiao et al., ICML 2023, arXiv:2211.10438. Transformers have a few channels with values far beyond
all others, which cost the others their resolution; weights, quantized by output channel, can take
half of that. The norm's own factor and offset are divided, so that nothing is added to the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from kdeploy.quantization.placement import kind_of
from kdeploy.quantization.unshared_parameters import Layer, own_parameters
from kdeploy.torch_module.named_inputs import in_graph_order

aten = torch.ops.aten
# How much of an outlier goes into the weights; the paper's value for most models.
ALPHA = 0.5
SMALLEST = 1e-5  # a channel that is always zero has no scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothed:
    """A layer norm, the parameters of it, and all that reads its output."""

    node: Node
    affine: Sequence[Tensor]
    readers: Sequence[Layer]


def find_norms(
    graph_module: GraphModule, model: nn.Module, layers: Mapping[Node, Layer]
) -> tuple[list[Smoothed], dict[str, str]]:
    """Return the layer norms that can be smoothed, and for the others the reason.

    Args:
        graph_module: A capture of `model`.
        model: Holds the parameters.
        layers: Those whose weights may change.
    """
    own = own_parameters(graph_module, model)
    found: list[Smoothed] = []
    declined: dict[str, str] = {}
    for node in graph_module.graph.find_nodes(op="call_function", target=aten.layer_norm.default):
        parameters = [own.get(str(a.target)) for a in node.args[2:4] if isinstance(a, Node)]
        affine = [p for p in parameters if p is not None and p.dim() == 1]
        readers = _readers(node)
        if not affine or len(affine) != len(parameters):
            declined[str(node)] = "it has no factor of its own"
        elif not readers or any(r not in layers or kind_of(r) != "linear" for r in readers):
            declined[str(node)] = "not only linear layers read it"
        else:
            chosen = tuple(layers[r] for r in readers)
            found.append(Smoothed(node=node, affine=affine, readers=chosen))
    return found, declined


def largest_values(
    graph_module: GraphModule, nodes: Iterable[Node], batches: Iterable[Tensor]
) -> dict[Node, Tensor]:
    """Return the largest magnitude of each channel, the last dimension, of each tensor."""
    watching = _Watching(graph_module, nodes)
    with torch.no_grad():
        for batch in batches:
            watching.run(*in_graph_order(graph_module, batch), enable_io_processing=False)
    return watching.largest


def smooth_norms(found: Iterable[Smoothed], largest: Mapping[Node, Tensor]) -> None:
    """Smooth the norms in place; what the model computes stays, to rounding."""
    for norm in found:
        columns = torch.stack([layer.largest_of_inputs() for layer in norm.readers]).amax(0)
        values = largest[norm.node].clamp(min=SMALLEST)
        factor = values**ALPHA / columns.clamp(min=SMALLEST) ** (1 - ALPHA)  # equation 4
        for tensor in norm.affine:
            tensor.detach().div_(factor)
        for layer in norm.readers:
            layer.scale_inputs(factor)


def _readers(node: Node) -> list[Node]:
    """Return the operators that read the tensor, also by a view that leaves the channels last."""
    readers: list[Node] = []
    for user in node.users:
        if _keeps_channels_last(user):
            readers.extend(_readers(user))
        else:
            readers.append(user)
    return readers


def _keeps_channels_last(user: Node) -> bool:
    if user.target is not aten.transpose.int:
        return False
    dims = len(user.meta["val"].shape)
    return all(int(str(d)) % dims != dims - 1 for d in user.args[1:3])


class _Watching(Interpreter):
    def __init__(self, graph_module: GraphModule, nodes: Iterable[Node]) -> None:
        super().__init__(graph_module)
        self.nodes = set(nodes)
        self.largest: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self.nodes:
            largest = value.abs().flatten(0, -2).amax(0)
            self.largest[n] = torch.maximum(self.largest.get(n, largest), largest)
        return value
