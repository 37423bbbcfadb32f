"""Cross-layer equalisation: move scale between neighbouring layers until their weights are alike.

A convolution followed by a ReLU and another layer computes the same when a channel is divided by
s > 0 at the first and multiplied by s at the second. With s = sqrt(r1 / r2), of the largest
weights of the channel in either, no channel dictates the range of all others (Nagel et al.,
Data-Free Quantization, ICCV 2019, arXiv:1906.04721).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from kdeploy.quantization.placement import kind_of
from kdeploy.quantization.unshared_parameters import Layer

aten = torch.ops.aten
Pair = tuple[Layer, Layer]
# f(s x) = s f(x) for every channel by itself and s > 0.
ELEMENTWISE = (aten.relu.default, aten.leaky_relu.default)
POOLS = (
    *(aten.max_pool1d.default, aten.max_pool2d.default),
    *(aten.avg_pool1d.default, aten.avg_pool2d.default),
    *(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default),
)
RESHAPES = (
    *(aten.flatten.using_ints, aten.reshape.default),
    *(aten.squeeze.dim, aten.squeeze.dims),
)
# Chains settle within a few sweeps; a factor this close to 1 changes no code.
MOST_SWEEPS = 20
SETTLED = 1e-2  # factors within 1 % of 1 change nothing more


def find_pairs(
    graph_module: GraphModule, layers: Mapping[Node, Layer]
) -> tuple[list[Pair], dict[str, str]]:
    """Return the pairs that scale can move between, and for other layers the reason.

    Args:
        graph_module: A capture of the model.
        layers: Those whose weights may change.
    """
    pairs: list[Pair] = []
    declined: dict[str, str] = {}
    for node in graph_module.graph.nodes:
        if node not in layers:
            continue
        end, reason = _follow(node, layers)
        if end is None:
            declined[layers[node].name] = reason
        else:
            pairs.append((layers[node], layers[end]))
    return pairs, declined


def equalize_layers(pairs: list[Pair]) -> None:
    """Equalise the pairs in place; what the model computes stays, to rounding."""
    for _ in range(MOST_SWEEPS):
        factors = [_equalize(first, second) for first, second in pairs]
        if all(float(f.log().abs().max()) < SETTLED for f in factors):
            return


def _equalize(first: Layer, second: Layer) -> Tensor:
    rows = first.weight.detach()
    r1, r2 = rows.flatten(1).abs().amax(1), second.largest_of_inputs()  # (channels,) each
    # A dead channel has no scale to move.
    factor = torch.where((r1 > 0) & (r2 > 0), (r1 / r2).sqrt(), torch.ones_like(r1))
    rows /= factor.reshape(-1, *(1 for _ in rows.shape[1:]))
    if first.bias is not None:
        first.bias.detach().div_(factor)
    second.scale_inputs(factor)
    return factor


def _follow(start: Node, layers: Mapping[Node, Layer]) -> tuple[Node | None, str]:
    """Return the layer that alone reads the start's channels, or the reason why there is none."""
    node = start
    while len(node.users) == 1:
        [reader] = node.users
        if reader in layers and reader.args[0] is node:
            fits = layers[reader].num_inputs == len(layers[start].weight)
            return (reader, "") if fits else (None, "its channels are mixed with positions")
        if not _scales(start, node, reader):
            what = "the output" if reader.op == "output" else f"`{reader.target}`"
            return None, f"{what} follows"
        node = reader
    return None, "several operators read it"


def _scales(start: Node, node: Node, reader: Node) -> bool:
    """Return whether a factor on a channel passes through `reader` as it is."""
    if reader.target in ELEMENTWISE:
        return True
    if kind_of(start) != "conv":
        return False
    if reader.target in RESHAPES:
        before, after = node.meta["val"].shape, reader.meta["val"].shape
        return len(after) > 1 and after[1] == before[1] and all(size == 1 for size in before[2:])
    return reader.target in POOLS or kind_of(reader) == "average"
