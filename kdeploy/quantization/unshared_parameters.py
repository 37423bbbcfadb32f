"""Which tensors of a model belong to one operator of its graph alone, so that they may change."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from kdeploy.quantization.placement import WEIGHTED, kind_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A convolution or linear operator, and the parameters of the model that it reads alone."""

    node: Node
    name: str
    """Of the weight, e.g. `layer1.0.conv1.weight`."""
    weight: Tensor
    bias: Tensor | None

    @property
    def groups(self) -> int:
        """Return into how many groups the channels are split."""
        is_split = kind_of(self.node) == "conv" and len(self.node.args) > 6
        return int(str(self.node.args[6])) if is_split else 1

    @property
    def num_inputs(self) -> int:
        """Return the number of input channels."""
        return self.groups * self.weight.shape[1]

    def largest_of_inputs(self) -> Tensor:
        """Return the largest magnitude that each input channel is multiplied with: (inputs,)."""
        outputs, inputs = self.weight.shape[:2]
        split = self.weight.detach().reshape(self.groups, outputs // self.groups, inputs, -1)
        return split.abs().amax((1, 3)).flatten()

    def scale_inputs(self, factor: Tensor) -> None:
        """Multiply the weights of each input channel by its factor (inputs,)."""
        outputs, inputs, *kernel = self.weight.shape
        factor = factor.reshape(self.groups, 1, inputs).expand(-1, outputs // self.groups, -1)
        self.weight.detach().mul_(factor.reshape(outputs, inputs, *(1 for _ in kernel)))


def own_layers(graph_module: GraphModule, model: nn.Module) -> dict[Node, Layer]:
    """Return the weighted operators that share neither weight nor bias with any other.

    Args:
        graph_module: A capture of `model`.
        model: Holds the tensors.
    """
    own = own_parameters(graph_module, model)
    layers: dict[Node, Layer] = {}
    for node in graph_module.graph.nodes:
        if kind_of(node) not in WEIGHTED:
            continue
        name, bias = str(node.args[1].target), node.args[2] if len(node.args) > 2 else None
        if name in own and (bias is None or str(bias.target) in own):
            own_bias = None if bias is None else own[str(bias.target)]
            layers[node] = Layer(node=node, name=name, weight=own[name], bias=own_bias)
    return layers


def own_parameters(graph_module: GraphModule, model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that have one name and are read by one operator."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = Counter(id(tensor) for tensor in parameters.values())
    reads: Counter[str] = Counter()
    for node in graph_module.graph.find_nodes(op="get_attr"):
        reads[str(node.target)] += len(node.users)
    return {n: t for n, t in parameters.items() if names[id(t)] == 1 == reads[n]}
