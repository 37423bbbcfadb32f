"""Fold batch norms into the layers before them, in the modules themselves.

In evaluation mode a batch norm is a factor and an offset for each channel: weight and bias of the
convolution or linear layer before it can hold both (Jacob et al., arXiv:1712.05877, section 3.2).
What is left is a plain model that computes the same and trains without statistics.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from kdeploy.quantization.capture import BATCH_NORMS, folded_tensors, trace

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# Exactly these: a subclass may do more than normalise, as timm's, which holds its activation.
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def fold_batch_norms(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy with an `nn.Identity` in place of each batch norm that could be folded.

    A batch norm stays where something else reads its layer's output as well, where either is used
    twice, and where the layer shares its weight.

    Args:
        model: Is left as it is.
        example: Two rows of input, to trace the model with.

    Raises:
        ModelError: the model cannot be traced with a dynamic batch.
    """
    graph_module = trace(model, example)
    twin = copy.deepcopy(model)
    alone = _read_once(graph_module, twin)
    for node in graph_module.graph.nodes:
        folded = folded_tensors(graph_module, node) if node.target in BATCH_NORMS else None
        if folded is None:
            continue
        norm_path, layer_path = _owner(node.args[3], alone), _owner(node.args[0].args[1], alone)
        if norm_path is None or layer_path is None:
            continue
        norm, layer = twin.get_submodule(norm_path), twin.get_submodule(layer_path)
        if type(norm) in NORMS and isinstance(layer, LAYERS):
            _take_in(layer, *folded)
            parent, _, name = norm_path.rpartition(".")
            setattr(twin.get_submodule(parent), name, nn.Identity().train(norm.training))
    return twin


def _read_once(graph_module: GraphModule, model: nn.Module) -> Mapping[str, bool]:
    """Return for each tensor of the model whether one operator alone reads it."""
    reads: Counter[int] = Counter()
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    for node in graph_module.graph.find_nodes(op="get_attr"):
        reads[id(tensors.get(node.target))] += len(node.users)
    names = Counter(id(tensor) for tensor in tensors.values())
    return {n: reads[id(t)] == 1 == names[id(t)] for n, t in tensors.items()}


def _owner(tensor: object, alone: Mapping[str, bool]) -> str | None:
    """Return the path of the module whose tensor this is; None where others have it too."""
    if not isinstance(tensor, Node) or not alone.get(str(tensor.target)):
        return None
    return str(tensor.target).rpartition(".")[0]


@torch.no_grad()
def _take_in(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    old, old_bias = layer.weight, layer.bias
    assert isinstance(old, nn.Parameter), f"{layer} has no weight"
    old.copy_(weight)
    if isinstance(old_bias, nn.Parameter):
        old_bias.copy_(bias)
    else:
        layer.bias = nn.Parameter(bias, requires_grad=old.requires_grad)
