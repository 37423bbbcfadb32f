"""Turn a quantized graph into one whose convolutions and linear layers compute on integers.

Where PT2E wrote dequantize -> convolution -> (add) -> (ReLU) -> quantize stands one integer layer
then, with codes as its input and its output. What has no integer kernel stays, in floating point.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from kdeploy.kernels.int8_layers import Epilogue, IntegerLayer, codes_of, reals_of
from kdeploy.kernels.windows import Window, window_of

aten = torch.ops.aten
CONVOLUTIONS = (
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
)
WEIGHTED = (*CONVOLUTIONS, aten.linear.default)
PRODUCTS = (aten.matmul.default, aten.bmm.default)
ADDITIONS = (aten.add.Tensor, aten.add_.Tensor)
LAYOUTS = (
    *(aten.flatten.using_ints, aten.reshape.default, aten.permute.default, aten.transpose.int),
    *(aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.select.int),
    *(aten.slice.Tensor, aten.expand.default),
)
RELUS = (aten.relu.default, aten.relu_.default)
QUANTIZE, DEQUANTIZE, DEQUANTIZE_WEIGHT = (
    *("quantize_per_tensor.default", "dequantize_per_tensor.default"),
    "dequantize_per_channel.default",
)


def integer_graph(
    quantized: GraphModule, *, real_type: torch.dtype
) -> tuple[GraphModule, list[dict[str, str]]]:
    """Return the graph on integers, and a row for each layer that stays in floating point.

    Args:
        quantized: Of PT2E, with int8 codes of zero point 0; it is left as it is.
        real_type: Of what stays in floating point.
    """
    module = copy.deepcopy(quantized)
    kept: list[dict[str, str]] = []
    for node in [n for n in module.graph.nodes if n.target in (*WEIGHTED, *PRODUCTS)]:
        reason = _why_float(module, node)
        if reason is None:
            _replace(module, node, real_type)
        else:
            kept.append({"name": layer_of(node), "kernel": str(real_type), "why": reason})
    module.graph.eliminate_dead_code()
    _fold_weights(module, real_type)
    _replace_quantizers(module, real_type)
    _carry_codes(module)
    _cast_rest(module, real_type)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module, kept


def layer_of(node: Node) -> str:
    """Return the path of the module that a node was traced from, else its own name."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return (str(stack[-1][0]) if stack else "") or node.name


def integer_layers(module: nn.Module) -> list[IntegerLayer]:
    """Return the integer layers of a graph, in their order."""
    return [layer for layer in module.modules() if isinstance(layer, IntegerLayer)]


def _why_float(module: GraphModule, node: Node) -> str | None:
    """Return why a node cannot become an integer layer, None when it can."""
    if node.target in PRODUCTS:
        return "a product of two activations: no integer kernel here"
    if not (_is(node.args[0], DEQUANTIZE) and _is(node.args[1], DEQUANTIZE_WEIGHT)):
        return "not quantized: its input or its weight has no codes"
    if _zero_point(node.args[0]) or _tensor(module, _arg(node.args[1], 2)).any():
        return "its codes have a zero point"
    if node.target is aten.linear.default:
        return None
    groups = node.args[6] if len(node.args) > 6 else 1
    if groups != 1:
        return f"a convolution of {groups} groups: no integer kernel here"
    return None if _window(module, node) else "padding or dimensions without an integer kernel"


def _replace(module: GraphModule, node: Node, real_type: torch.dtype) -> None:
    """Put an integer layer in the place of a weighted node and of what can follow in its kernel."""
    codes, weight = _arg(node.args[0], 0), node.args[1]
    last, skip, epilogue = _followers(node, real_type)
    bias = node.args[2] if len(node.args) > 2 else None
    window = Window() if node.target is aten.linear.default else _window(module, node)
    assert window is not None, f"{node} has no window"
    layer = IntegerLayer(
        _tensor(module, _arg(weight, 0)),
        _tensor(module, _arg(weight, 1)) * _scale(node.args[0]),  # (outputs,): input x weight
        None if bias is None else _tensor(module, bias),
        window=window,
        epilogue=epilogue,
        name=layer_of(node),
    )
    name = f"integer_{len(integer_layers(module))}"
    module.add_submodule(name, layer)
    with module.graph.inserting_before(last):
        new = module.graph.call_module(name, (codes,) if skip is None else (codes, skip))
    last.replace_all_uses_with(new)
    new.meta.update(node.meta)
    module.graph.eliminate_dead_code()


def _followers(node: Node, real_type: torch.dtype) -> tuple[Node, Node | None, Epilogue]:
    """Return the last node that the kernel takes over, the codes that it adds, and what it does."""
    last, skip, skip_scale = node, None, None
    follower = _only_user(last)
    if follower is not None and follower.target in ADDITIONS and not follower.kwargs:
        others = [n for n in follower.args if n is not last]
        # Of the same shape: a broadcast is no skip.
        if len(others) == 1 and _is_codes(others[0]) and _same_shape(others[0], last):
            skip, skip_scale = _arg(others[0], 0), _scale(others[0])
            last, follower = follower, _only_user(follower)
    has_relu = follower is not None and follower.target in RELUS
    if has_relu:
        assert follower is not None, "it has a target"
        last, follower = follower, _only_user(follower)
    code_scale = None
    if follower is not None and _is(follower, QUANTIZE) and not _zero_point(follower):
        code_scale, last = _scale(follower), follower
    epilogue = Epilogue(
        skip_scale=skip_scale, has_relu=has_relu, code_scale=code_scale, real_type=real_type
    )
    return last, skip, epilogue


def _fold_weights(module: GraphModule, real_type: torch.dtype) -> None:
    """Store the weights of layers that stay float as the real numbers that their codes are."""
    for node in [n for n in module.graph.nodes if _is(n, DEQUANTIZE_WEIGHT)]:
        codes, scales, zero_points = (_tensor(module, node.args[i]) for i in range(3))
        shape = [1] * codes.dim()
        shape[int(node.args[3])] = -1
        # In float32, then rounded once to `real_type`.
        real = (codes.float() - zero_points.float().view(shape)) * scales.view(shape)
        name = f"real_{node.name}"
        module.register_buffer(name, real.to(real_type))
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.get_attr(name))
        module.graph.erase_node(node)


def _replace_quantizers(module: GraphModule, real_type: torch.dtype) -> None:
    """Put one's own functions in the place of PT2E's, which know float32 alone."""
    for node in list(module.graph.nodes):
        function: Callable[..., Tensor]
        arguments: tuple[Any, ...]
        if _is(node, QUANTIZE) and not _zero_point(node):
            function, arguments = codes_of, (node.args[0], _scale(node))
        elif _is_codes(node):
            function, arguments = reals_of, (node.args[0], _scale(node), real_type)
        else:
            continue
        with module.graph.inserting_before(node):
            new = module.graph.call_function(function, arguments)
        node.replace_all_uses_with(new)
        module.graph.erase_node(node)


def _carry_codes(module: GraphModule) -> None:
    """Move codes where real numbers were moved only to become the same codes again."""
    for node in list(module.graph.find_nodes(op="call_function", target=codes_of)):
        moved, scale = node.args
        before = moved.args[0] if moved.target in LAYOUTS and len(moved.users) == 1 else None
        if before is not None and before.target is reals_of and before.args[1] == scale:
            moved.replace_input_with(before, before.args[0])
            node.replace_all_uses_with(moved)
            module.graph.erase_node(node)


def _cast_rest(module: GraphModule, real_type: torch.dtype) -> None:
    """Give the float operators that are left their numbers in `real_type`."""
    for node in list(module.graph.find_nodes(op="get_attr")):
        value = _tensor(module, node)
        if value.is_floating_point() and value.dtype != real_type:
            name = f"cast_{node.name}"
            module.register_buffer(name, value.to(real_type))
            node.target = name
    for node in module.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        readers = [n for n in node.users if n.target is not codes_of]
        if not readers or (value is not None and not value.is_floating_point()):
            continue
        with module.graph.inserting_after(node):
            cast = module.graph.call_method("to", (node, real_type))
        for reader in readers:
            reader.replace_input_with(node, cast)


def _is(node: Any, name: str) -> bool:
    target = node.target if isinstance(node, Node) else None
    return str(target) == f"quantized_decomposed.{name}"


def _is_codes(node: Any) -> bool:
    """Tell whether a node dequantizes codes of zero point 0."""
    return _is(node, DEQUANTIZE) and not _zero_point(node)


def _arg(node: Any, index: int) -> Node:
    argument = node.args[index]
    assert isinstance(argument, Node), f"{node} has no node as its argument {index}"
    return argument


def _scale(node: Any) -> float:
    return float(node.args[1])


def _zero_point(node: Any) -> int:
    return int(node.args[2])


def _tensor(module: GraphModule, node: Any) -> Tensor:
    value: Tensor = operator.attrgetter(str(node.target))(module)
    return value.detach()


def _window(module: GraphModule, node: Node) -> Window | None:
    weight = _tensor(module, _arg(node.args[1], 0))
    # aten leaves out arguments at their defaults: stride, padding, dilation.
    given: list[Any] = [[1], "valid" if node.target in CONVOLUTIONS[3:] else [0], [1]]
    given[: len(node.args[3:6])] = node.args[3:6]
    return window_of(weight.shape[2:], *given)


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _same_shape(one: Any, other: Node) -> bool:
    values = [_value(n) for n in (one, other)]
    return all(v is not None for v in values) and values[0].shape == values[1].shape


def _value(node: Any) -> Any:
    """Return what is known of a node's output; a quantizer has the shape of its input."""
    while isinstance(node, Node) and (_is(node, QUANTIZE) or _is(node, DEQUANTIZE)):
        node = node.args[0]
    return node.meta.get("val") if isinstance(node, Node) else None
