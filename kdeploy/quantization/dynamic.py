"""A model whose activations are quantized as they come: weights are INT8, ranges nobody observes.

Linear and LSTM layers take uint8 inputs whose scale follows from the smallest and largest value of
each call (ONNX's DynamicQuantizeLinear), and int8 weights, symmetric per output; of embeddings each
row has a scale. The layers are operators of their own (`kdeploy::dynamic_linear`,
`kdeploy::dynamic_lstm`, `kdeploy::int8_table`), which compute in torch what the file will; an
exporter translates them one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from kdeploy.errors import ModelError
from kdeploy.quantization.capture import CONVOLUTIONS, add_constant, capture, constant, finish
from kdeploy.quantization.contract import wrapper
from kdeploy.quantization.number_format import INT7, INT8, NumberFormat, channel_scales
from kdeploy.torch_module.named_inputs import each_of, hold_example

aten = torch.ops.aten
# torch orders the gates of an LSTM input, forget, cell, output; ONNX input, output, forget, cell.
GATES = (0, 3, 1, 2)
NO_KERNEL: Mapping[Any, str] = {
    aten.gru.input: "ONNX Runtime has no dynamic GRU",
    aten.rnn_tanh.input: "ONNX Runtime has no dynamic RNN",
    aten.rnn_relu.input: "ONNX Runtime has no dynamic RNN",
    **dict.fromkeys(CONVOLUTIONS, "convolutions want ranges known before: `int8_ptq`"),
}


class DynamicModel(nn.Module):
    """Computes what the file with dynamic quantization will compute.

    `base` stays the float model; the graph is rebuilt from it and `state()`, bit for bit. It is
    always in evaluation mode.
    """

    wrapper = "dynamic"
    example: Tensor

    def __init__(
        self,
        base: nn.Module,
        example: Tensor,
        *,
        ignore: Sequence[str] = (),
        reduce_range: bool = False,
        tables: bool = True,
    ) -> None:
        super().__init__()
        self.base = base.eval()
        self.ignore = tuple(ignore)
        self.reduce_range = reduce_range
        self.tables = tables
        """Whether embeddings are of bytes, too: older artefacts do not say it, and they are not."""
        hold_example(self, example)
        self.declined: dict[str, str] = {}
        """Layers with weights that stay float, with the reason."""
        self.graph = self._converted(_captured(self.base, example))
        self.training = False

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        output: Tensor = self.graph(*inputs, **named)
        return output

    def train(self, mode: bool = True) -> DynamicModel:
        """Do nothing: rounding has no gradient."""
        return self

    def state(self) -> dict[str, Any]:
        """Return the options; the weights follow from those of `base`."""
        return {
            "ignore": list(self.ignore),
            "reduce_range": self.reduce_range,
            "tables": self.tables,
        }

    def layers(self) -> list[str]:
        """Return the names of the layers on integers."""
        nodes = (node for node in self.graph.graph.nodes if node.target in (LINEAR, LSTM, TABLE))
        return list(dict.fromkeys(name_of(node) for node in nodes))

    def _converted(self, graph_module: GraphModule) -> GraphModule:
        for node in list(graph_module.graph.nodes):
            reason = self._reason(graph_module, node)
            if reason:
                self.declined[name_of(node)] = reason
            elif node.target is aten.linear.default:
                self._replace_linear(graph_module, node)
            elif node.target is aten.lstm.input:
                self._replace_lstm(graph_module, node)
            elif node.target is aten.embedding.default:
                self._replace_table(graph_module, node)
        return finish(graph_module)

    def _reason(self, graph_module: GraphModule, node: Node) -> str:
        """Return why a layer with weights stays float; "" for those that do not, and the rest."""
        if node.target in NO_KERNEL:
            return NO_KERNEL[node.target]
        if node.target not in (aten.linear.default, aten.lstm.input, aten.embedding.default):
            return ""
        if any(fnmatchcase(name_of(node), pattern) for pattern in self.ignore):
            return "ignored, as asked"
        if node.target is aten.embedding.default and not self.tables:
            return "a table is read, not multiplied"
        if node.target is not aten.lstm.input:
            weight = node.args[0 if node.target is aten.embedding.default else 1]
            return "" if constant(graph_module, weight) is not None else "a computed weight"
        return _reason_of_lstm(graph_module, node)

    def _replace_linear(self, graph_module: GraphModule, node: Node) -> None:
        weight = constant(graph_module, node.args[1])
        assert weight is not None, f"{node} has no constant weight"
        bias = constant(graph_module, node.args[2]) if len(node.args) > 2 else None
        stored = [*self._codes(weight), *([] if bias is None else [bias])]
        constants = [add_constant(graph_module, tensor, node) for tensor in stored]
        new = _insert(graph_module, node, LINEAR, node.args[0], *constants)
        node.replace_all_uses_with(new)

    def _codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the int8 codes (inputs, outputs) of a weight (outputs, inputs), and the scales."""
        codes, scales = _rounded_rows(weight, INT7 if self.reduce_range else INT8)
        return codes.T.contiguous(), scales

    def _replace_table(self, graph_module: GraphModule, node: Node) -> None:
        table = constant(graph_module, node.args[0])
        assert table is not None, f"{node} has no constant table"
        codes, scales = _rounded_rows(table, INT8)  # nothing is summed: 8 bits on any processor
        constants = [add_constant(graph_module, t, node) for t in (codes, scales[:, None])]
        new = _insert(graph_module, node, TABLE, *constants, node.args[1])
        node.replace_all_uses_with(new)

    def _replace_lstm(self, graph_module: GraphModule, node: Node) -> None:
        """Write each layer of an LSTM as one operator on (time, batch, inputs)."""
        given: tuple[Any, ...] = node.args
        x, _, parameters, has_biases, num_layers, _, _, is_bidirectional, batch_first = given
        directions = 2 if is_bidirectional else 1
        each = (4 if has_biases else 2) * directions
        current = x
        if batch_first:
            current = _insert(graph_module, node, aten.transpose.int, x, 0, 1)
        for layer in range(num_layers):
            stored = self._weights_of_layer(
                graph_module, parameters[layer * each : (layer + 1) * each], directions
            )
            constants = [add_constant(graph_module, tensor, node) for tensor in stored]
            current = _insert(graph_module, node, LSTM, current, *constants)
        if batch_first:
            current = _insert(graph_module, node, aten.transpose.int, current, 0, 1)
        for item in list(node.users):
            item.replace_all_uses_with(current)

    def _weights_of_layer(
        self, graph_module: GraphModule, nodes: Sequence[Any], directions: int
    ) -> list[Tensor]:
        """Return codes and scales of input and recurrent weights, and biases, in ONNX's form.

        Codes are (directions, inputs, 4 x hidden), scales (directions, 4 x hidden), biases
        (directions, 8 x hidden).
        """
        count = len(nodes) // directions
        sides: list[list[Tensor]] = []
        for start in range(0, len(nodes), count):
            tensors = [constant(graph_module, n) for n in nodes[start : start + count]]
            weights = [_in_order_of_onnx(t) for t in tensors if t is not None]
            biases = weights[2:] or [torch.zeros(len(weights[0]))] * 2
            coded = [part for weight in weights[:2] for part in self._codes(weight)]
            sides.append([*coded, torch.cat(biases)])
        return [torch.stack(parts) for parts in zip(*sides, strict=True)]


@wrapper()
def dynamic(base: nn.Module, state: Mapping[str, Any], example: Tensor) -> DynamicModel:
    """Return `base` quantized again as `state` says."""
    return DynamicModel(
        base,
        example,
        ignore=state["ignore"],
        reduce_range=bool(state["reduce_range"]),
        tables=bool(state.get("tables", False)),
    )


@torch.library.custom_op("kdeploy::dynamic_linear", mutates_args=())
def dynamic_linear(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the product of `x` (..., inputs), quantized per call, and int8 codes, plus the bias.

    codes: (inputs, outputs); scales, bias: (outputs,).
    """
    product = _product(x, codes, scales)
    return product if bias is None else product + bias


@dynamic_linear.register_fake
def _(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[1]))


@torch.library.custom_op("kdeploy::dynamic_lstm", mutates_args=())
def dynamic_lstm(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    recurrent_codes: Tensor,
    recurrent_scales: Tensor,
    bias: Tensor,
) -> Tensor:
    """Return the outputs (time, batch, directions x hidden) of one layer that starts from zero.

    The input is quantized once for all steps, what the layer held before at each step; weights
    are as `_weights_of_layer` gives them.
    """
    hidden = recurrent_codes.shape[1]
    outputs = []
    for side in range(len(codes)):
        steps = _product(x, codes[side], scales[side]) + bias[side].reshape(2, -1).sum(0)
        held = cell = x.new_zeros(x.shape[1], hidden)
        seen = []
        for step in steps.flip(0) if side else steps:
            gates = step + _product(held, recurrent_codes[side], recurrent_scales[side])
            entering, leaving, keeping, new = gates.split(hidden, 1)
            cell = torch.sigmoid(keeping) * cell + torch.sigmoid(entering) * torch.tanh(new)
            held = torch.sigmoid(leaving) * torch.tanh(cell)
            seen.append(held)
        outputs.append(torch.stack(seen[::-1] if side else seen))
    return torch.cat(outputs, 2)


@dynamic_lstm.register_fake
def _(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    recurrent_codes: Tensor,
    recurrent_scales: Tensor,
    bias: Tensor,
) -> Tensor:
    return x.new_empty((*x.shape[:2], len(codes) * recurrent_codes.shape[1]))


@torch.library.custom_op("kdeploy::int8_table", mutates_args=())
def int8_table(codes: Tensor, scales: Tensor, ids: Tensor) -> Tensor:
    """Return rows (..., width) of a table of codes (rows, width) times its scales (rows, 1)."""
    return codes[ids].float() * scales[ids]


@int8_table.register_fake
def _(codes: Tensor, scales: Tensor, ids: Tensor) -> Tensor:
    return scales.new_empty((*ids.shape, codes.shape[1]))


LINEAR = torch.ops.kdeploy.dynamic_linear.default
LSTM = torch.ops.kdeploy.dynamic_lstm.default
TABLE = torch.ops.kdeploy.int8_table.default


def name_of(node: Node) -> str:
    """Return the path of the module that the node stands for, or the node's own name."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return (str(stack[-1][0]) if stack else "") or node.name


def _rounded_rows(weight: Tensor, number_format: NumberFormat) -> tuple[Tensor, Tensor]:
    """Return int8 codes of a weight (rows, columns), and the scale of each row (rows,)."""
    real = weight.detach().cpu().float()
    floor = np.zeros(len(real), np.float32)
    scales = torch.from_numpy(channel_scales(real.numpy(), number_format, floor=floor))
    most = number_format.qmax
    return (real / scales[:, None]).round().clamp(-most, most).to(torch.int8), scales


def _product(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """Return x @ (codes * scales) with `x` rounded to 256 codes between its extremes and zero."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero_point = (-low / scale).round().clamp(0, 255)
    rounded = ((x / scale).round() + zero_point).clamp(0, 255) - zero_point
    # In float64 the sums of integers are exact, as they are in int32.
    return (rounded.double() @ codes.double()).float() * (scale * scales)


def _captured(model: nn.Module, example: Tensor) -> GraphModule:
    """Return the graph; token ids and what goes with them may be of any length, if the model lets.

    Ranges are those of a call, so that nothing here is of one length.
    """
    lengths = {
        name: (1,) for name, x in each_of(example) if x.dim() == 2 and not x.is_floating_point()
    }
    with suppress(ModelError):  # a length that the model fixes is fixed in its file, too
        return capture(model, example, axes=lengths.get("", lengths))
    return capture(model, example)


def _reason_of_lstm(graph_module: GraphModule, node: Node) -> str:
    given: tuple[Any, ...] = node.args
    _, states, parameters, has_biases, num_layers, _, _, is_bidirectional, _ = given
    count = (4 if has_biases else 2) * num_layers * (2 if is_bidirectional else 1)
    if len(parameters) != count:
        return "its outputs are projected"
    if any(constant(graph_module, p) is None for p in parameters):
        return "computed weights"
    if any(not _is_zero(graph_module, s) for s in states):
        return "it does not start from zero"
    if any(item.args[1] != 0 and item.users for item in node.users):
        return "its last states are read, not its outputs"
    return ""


def _is_zero(graph_module: GraphModule, state: Any) -> bool:
    value = constant(graph_module, state)
    if value is not None:
        return not value.any()
    return isinstance(state, Node) and state.target in (aten.zeros.default, aten.zeros_like.default)


def _in_order_of_onnx(tensor: Tensor) -> Tensor:
    quarters = tensor.detach().cpu().float().chunk(4)
    return torch.cat([quarters[gate] for gate in GATES])


def _insert(graph_module: GraphModule, replaced: Node, target: Any, *args: Any) -> Node:
    with graph_module.graph.inserting_before(replaced):
        node = graph_module.graph.call_function(target, args)
    node.meta["nn_module_stack"] = replaced.meta.get("nn_module_stack")
    return node
