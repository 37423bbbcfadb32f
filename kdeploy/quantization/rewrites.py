"""Rewrite a captured graph into operators that exist on integers, without changing its numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from kdeploy.errors import ModelError
from kdeploy.quantization.capture import (
    BATCH_NORMS,
    CONVOLUTIONS,
    add_constant,
    batch_norm_affine,
    constant,
    finish,
    normalised,
)

aten = torch.ops.aten
RECURRENT = (aten.gru.input, aten.lstm.input, aten.rnn_tanh.input, aten.rnn_relu.input)
GLOBAL_POOLS = (
    *(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default),
    aten.adaptive_avg_pool3d.default,
)


def into_integer_operators(graph_module: GraphModule) -> GraphModule:
    """Apply every rewrite of this file to a graph that `capture` made.

    Raises:
        ModelError: the model is recurrent.
    """
    _refuse_recurrent(graph_module)
    for rewrite in (
        *(split_silu, split_attention, join_hard_gates),
        *(unify_means, batch_norms_as_convolutions, spell_batch_statistics),
    ):
        rewrite(graph_module)
    return finish(graph_module)


def _refuse_recurrent(graph_module: GraphModule) -> None:
    """Refuse, rather than call a model INT8 whose largest weights stay float."""
    found = [node for node in graph_module.graph.nodes if node.target in RECURRENT]
    if found:
        raise ModelError(
            f"INT8 is for convolutions and linear layers, and `{found[0]}` is a recurrent layer: "
            "its rounding errors would come back as its own input",
            hint="`int8_dynamic` quantizes LSTM and linear layers; a smaller "
            "hidden size, distilled, saves as much",
        )


def split_silu(graph_module: GraphModule) -> None:
    """Write silu(x) as x * sigmoid(x): both have integer kernels, silu has none."""
    for node in graph_module.graph.find_nodes(op="call_function", target=aten.silu.default):
        x = node.args[0]
        gate = _insert(graph_module, node, aten.sigmoid.default, x)
        node.replace_all_uses_with(_insert(graph_module, node, aten.mul.Tensor, x, gate))


def split_attention(graph_module: GraphModule) -> None:
    """Write attention without a mask as two products and a softmax: products have kernels."""
    attention = aten.scaled_dot_product_attention.default
    for node in graph_module.graph.find_nodes(op="call_function", target=attention):
        query, key, value = node.args[:3]
        # A mask, dropout, and whether it is causal.
        if any(node.args[3:]) or set(node.kwargs) - {"scale"}:
            continue
        width = key.meta["val"].shape[-1]
        scale = node.kwargs.get("scale") or int(width) ** -0.5
        transposed = _insert(graph_module, node, aten.transpose.int, key, -2, -1)
        transposed.meta["val"] = key.meta["val"].transpose(-2, -1)
        scaled = _insert(graph_module, node, aten.mul.Tensor, query, scale)
        scaled.meta["val"] = query.meta["val"]
        scores = _insert(graph_module, node, aten.matmul.default, scaled, transposed)
        scores.meta["val"] = query.meta["val"] @ transposed.meta["val"]
        shares = _insert(graph_module, node, aten.softmax.int, scores, -1)
        shares.meta["val"] = scores.meta["val"]
        node.replace_all_uses_with(_insert(graph_module, node, aten.matmul.default, shares, value))
        graph_module.graph.erase_node(node)  # torch keeps what could draw random numbers


def join_hard_gates(graph_module: GraphModule) -> None:
    """Write relu6(x + 3) / 6 as hardsigmoid(x), and x times that as hardswish(x).

    Spelled out, each step would be rounded and written to memory; joined, it is one float
    operator between two integer ones.
    """
    for node in graph_module.graph.find_nodes(op="call_function", target=aten.div.Tensor):
        divided, divisor = node.args
        if divisor != 6:
            continue
        x = _shifted(divided)
        gated = x is None and isinstance(divided, Node) and divided.target is aten.mul.Tensor
        if gated:
            x = next((f for f in divided.args if _gates(divided, f)), None)
        if x is not None:
            target = aten.hardswish.default if gated else aten.hardsigmoid.default
            node.replace_all_uses_with(_insert(graph_module, node, target, x))


def _gates(product: Node, factor: Any) -> bool:
    """Return whether `product` is factor * relu6(factor + 3)."""
    return isinstance(factor, Node) and any(_shifted(other) is factor for other in product.args)


def _shifted(clipped: Any) -> Node | None:
    """Return x where the node is relu6(x + 3), however that is written."""
    if not isinstance(clipped, Node) or clipped.op != "call_function":
        return None
    bounds = (
        clipped.args[1:3] if clipped.target in (aten.hardtanh.default, aten.clamp.default) else ()
    )
    if clipped.target is not aten.relu6.default and tuple(bounds) != (0, 6):
        return None
    added = clipped.args[0]
    is_shift = isinstance(added, Node) and added.target is aten.add.Tensor and added.args[1] == 3
    return added.args[0] if is_shift else None  # type: ignore[union-attr, return-value]


def unify_means(graph_module: GraphModule) -> None:
    """Write every mean over all positions as one that keeps its dimensions, then squeeze.

    Only that form is a global average pool, which has an integer kernel.
    """
    for node in list(graph_module.graph.nodes):
        x = node.args[0] if node.op == "call_function" and node.args else None
        if not isinstance(x, Node) or not isinstance(x.meta.get("val"), Tensor):
            continue
        positions = list(range(2, x.meta["val"].dim()))
        if node.target in GLOBAL_POOLS and all(size == 1 for size in node.args[1]):
            mean = _insert(graph_module, node, aten.mean.dim, x, positions, True)
            mean.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(mean)
        elif is_global_mean(node) and not _keeps_dimensions(node):
            mean = _insert(graph_module, node, aten.mean.dim, x, positions, True)
            mean.meta["val"] = node.meta["val"].reshape(
                *node.meta["val"].shape, *(1,) * len(positions)
            )
            squeezed = _insert(graph_module, node, aten.squeeze.dims, mean, positions)
            squeezed.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(squeezed)


def is_global_mean(node: Node) -> bool:
    """Return whether the node averages over all positions of (batch, channels, positions...)."""
    if node.target is not aten.mean.dim:
        return False
    num_dims = node.args[0].meta["val"].dim()  # type: ignore[union-attr]
    dims = node.args[1] if isinstance(node.args[1], list | tuple) else [node.args[1]]
    return num_dims > 2 and sorted(int(str(d)) % num_dims for d in dims) == list(range(2, num_dims))


def batch_norms_as_convolutions(graph_module: GraphModule) -> None:
    """Write a batch norm that could not be folded as a depthwise convolution of size one.

    Such stand before a ReLU in pre-activation and dense networks. The one weight of a channel is
    its own largest, so its 8-bit code is exact.
    """
    for node in list(graph_module.graph.nodes):
        affine = batch_norm_affine(graph_module, node) if node.target in BATCH_NORMS else None
        num_positions = node.args[0].meta["val"].dim() - 2 if affine else 0
        if affine is None or not 1 <= num_positions <= 3:
            continue
        factor, offset = affine
        ones = [1] * num_positions
        weight = add_constant(graph_module, factor.float().reshape(-1, 1, *ones), node)
        bias = add_constant(graph_module, offset.float(), node)
        replaced = normalised(node)
        convolution = _insert(
            graph_module,
            replaced,
            CONVOLUTIONS[num_positions - 1],
            *(node.args[0], weight, bias, ones, [0] * num_positions, ones, len(factor)),
        )
        replaced.replace_all_uses_with(convolution)


def spell_batch_statistics(graph_module: GraphModule) -> None:
    """Write a batch norm without running statistics as the sums and products that it is.

    PT2E takes every batch norm behind a convolution for one that can be folded.
    """
    for node in graph_module.graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        x: Any = node.args[0]
        if any(constant(graph_module, statistic) is not None for statistic in node.args[3:5]):
            continue
        value = x.meta["val"]
        others = [d for d in range(value.dim()) if d != 1]
        mean = _insert(graph_module, node, aten.mean.dim, x, others, True)
        centred = _insert(graph_module, node, aten.sub.Tensor, x, mean)
        squared = _insert(graph_module, node, aten.square.default, centred)
        variance = _insert(graph_module, node, aten.mean.dim, squared, others, True)
        for narrow in (mean, variance):
            narrow.meta["val"] = value.mean(others, keepdim=True)
        raised = _insert(graph_module, node, aten.add.Tensor, variance, float(str(node.args[7])))
        scale = _insert(graph_module, node, aten.rsqrt.default, raised)
        for narrow in (raised, scale):
            narrow.meta["val"] = variance.meta["val"]
        result = _insert(graph_module, node, aten.mul.Tensor, centred, scale)
        for target, tensor in zip((aten.mul.Tensor, aten.add.Tensor), node.args[1:3], strict=True):
            given = constant(graph_module, tensor)
            if given is not None:
                wide = given.reshape(1, -1, *(1 for _ in others[1:]))
                held = add_constant(graph_module, wide, node)
                result = _insert(graph_module, node, target, result, held)
        node.replace_all_uses_with(result)


def _keeps_dimensions(node: Node) -> bool:
    return len(node.args) > 2 and bool(node.args[2])


def _insert(graph_module: GraphModule, replaced: Node, target: Any, *args: Any) -> Node:
    """Return a new node that stands where `replaced` does and takes over what is known of it."""
    with graph_module.graph.inserting_before(replaced):
        node = graph_module.graph.call_function(target, args)
    node.meta.update(replaced.meta)
    return node
