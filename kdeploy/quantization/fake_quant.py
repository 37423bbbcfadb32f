"""A model that trains with the rounding of the INT8 model it will become, scales included.

Esser et al., Learned Step Size Quantization, ICLR 2020, arXiv:1902.08153: a scale's gradient is
that of the rounded values, with rounding itself taken as the identity, and is divided by
sqrt(values x highest code). Here the ratio to the scale that training starts with is learned, with
the paper's relative steps under SGD and steps of about the learning rate under Adam. Under both a
step changes a scale by no more than that fraction of its start.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from kdeploy.quantization.capture import capture, constant
from kdeploy.quantization.number_format import INT7, NumberFormat, bias_floor, channel_scales
from kdeploy.quantization.observers import Range
from kdeploy.quantization.placement import Group, Placement, kind_of, layer_of, place
from kdeploy.quantization.profiles import Profile, profile_named
from kdeploy.quantization.rewrites import into_integer_operators

# A step too far must not turn a scale around.
SMALLEST_RATIO = 0.01


class FakeQuantized(GraphModule):
    """The graph of a model with a quantizer where the INT8 model will have one.

    Its parameters are those of the model under their own names, and the ratios of the quantizers.
    It computes in float32 under autocast too: bfloat16 is as coarse as the codes. What is asked of
    it are functions: a name that stands in the class is one that no model may have (`layers`).
    """

    def __call__(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        first = next(iter((*inputs, *named.values())))
        with torch.autocast(first.device.type, enabled=False):
            outputs: Tensor = super().__call__(
                *map(_wide, inputs), **{name: _wide(x) for name, x in named.items()}
            )
        return outputs


def activation_quantizers(model: FakeQuantized) -> list[ActivationQuantizer]:
    """Return what rounds the tensors that layers read and make."""
    return [m for m in model.children() if isinstance(m, ActivationQuantizer)]


def weight_quantizers(model: FakeQuantized) -> list[WeightQuantizer]:
    """Return what rounds the weights."""
    return [m for m in model.children() if isinstance(m, WeightQuantizer)]


def layers_on_integers(model: FakeQuantized) -> list[str]:
    """Return the names of the layers on integers, in their order."""
    quantizers = weight_quantizers(model)
    return list(dict.fromkeys(layer for q in quantizers for layer in sorted(q.layers)))


def round_alone(model: FakeQuantized, layers: Collection[str] | None) -> None:
    """Round only what these layers alone would have rounded; None: everything."""
    quantizers: list[Any] = [*activation_quantizers(model), *weight_quantizers(model)]
    for quantizer in quantizers:
        quantizer.is_on = layers is None or not quantizer.layers.isdisjoint(layers)


def learned_ranges(model: FakeQuantized) -> dict[str, Range]:
    """Return the learned range of each quantized tensor."""
    return {name: q.span() for q in activation_quantizers(model) for name in q.names}


def learned_weight_scales(model: FakeQuantized) -> dict[str, list[float]]:
    """Return the learned scales of each quantized weight that is a parameter."""
    learned = [q for q in weight_quantizers(model) if q.ratio.requires_grad]
    return {q.name: [float(s) for s in q.scale().flatten()] for q in learned}


def write_back(model: FakeQuantized, base: nn.Module) -> None:
    """Give the model that the graph was made of the weights as they are now."""
    own, wanted = model.state_dict(), base.state_dict()
    base.load_state_dict({n: v for n, v in own.items() if n in wanted}, strict=False)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


class ActivationQuantizer(nn.Module):
    """One scale for a tensor, or for several; the zero point stays."""

    zero_point: int

    def __init__(
        self, span: Range, number_format: NumberFormat, *, names: tuple[str, ...], layers: set[str]
    ) -> None:
        super().__init__()
        self.first_span, self.number_format = span, number_format
        self.names, self.layers, self.is_on = names, layers, True
        self.start, self.zero_point = number_format.scale_and_zero_point(*span)
        self.ratio = nn.Parameter(torch.ones(1))

    def span(self) -> Range:
        """Return the range that the codes cover."""
        ratio = max(float(self.ratio.detach()), SMALLEST_RATIO)
        return self.first_span[0] * ratio, self.first_span[1] * ratio

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_on:
            return x
        if self.training:
            scale = self.ratio.detach().clamp(min=SMALLEST_RATIO) * self.start
        else:  # as a file will hold it, to the last bit
            scale = x.new_tensor([self.number_format.scale_and_zero_point(*self.span())[0]])
        low = self.number_format.qmin - self.zero_point
        high = self.number_format.qmax - self.zero_point
        # The values of one item: the gradient is a mean over the batch.
        values = max(x.numel() // max(len(x), 1), 1) * self.number_format.qmax
        return _rounded(x, self.ratio, scale, low, high, values**-0.5 / self.start)


class WeightQuantizer(nn.Module):
    """A scale for each output channel of a weight."""

    start: Tensor

    def __init__(
        self, start: Tensor, shape: torch.Size, number_format: NumberFormat, *, name: str
    ) -> None:
        super().__init__()
        self.number_format, self.name, self.is_on = number_format, name, True
        self.layers: set[str] = set()
        self.register_buffer("start", start.reshape(-1, *(1 for _ in shape[1:])), persistent=False)
        self.ratio = nn.Parameter(torch.ones_like(self.start))

    def scale(self) -> Tensor:
        """Return the scales, (channels, 1, ...)."""
        return self.ratio.detach().clamp(min=SMALLEST_RATIO) * self.start

    def forward(self, weight: Tensor) -> Tensor:
        if not self.is_on:
            return weight
        values = weight[0].numel() * self.number_format.qmax
        low, high = self.number_format.qmin, self.number_format.qmax
        return _rounded(weight, self.ratio, self.scale(), low, high, values**-0.5 / self.start)


class _Rounding(torch.autograd.Function):
    """Rounds to codes from `low` to `high`; two to three times as fast as torch's own on a CPU."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, ratio: Tensor, scale: Tensor, low: int, high: int, share: Any
    ) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.low, ctx.high, ctx.share = low, high, share
        # Not a division: quantize_per_tensor multiplies, and ties shall fall to the same side.
        return (x * scale.reciprocal()).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        [gradient] = gradients
        values = x * scale.reciprocal()
        is_inside = (values >= ctx.low) & (values <= ctx.high)
        codes = values.round().clamp_(ctx.low, ctx.high)
        # Equation 3 of the paper: code - value inside of the range, the end's code outside.
        slope = codes.sub_(values.mul_(is_inside)).mul_(gradient)
        # Clamped: one outlier must not move a scale by more than the learning rate.
        to_ratio = (slope.sum_to_size(scale.shape) * ctx.share).clamp(-1, 1)
        return gradient * is_inside, to_ratio, None, None, None, None


def _rounded(
    x: Tensor, ratio: Tensor, scale: Tensor, low: int, high: int, share: float | Tensor
) -> Tensor:
    """Return x on the grid of a scale; `share` of the scale's gradient is the ratio's."""
    rounded: Tensor = _Rounding.apply(x, ratio, scale, low, high, share)  # type: ignore[no-untyped-call]
    return rounded


def fake_quantized(
    base: nn.Module,
    example: Tensor,
    *,
    ranges: Mapping[str, Range],
    profile: str,
    reduce_range: bool = False,
    float_layers: Collection[str] = (),
) -> FakeQuantized:
    """Return a trainable graph of `base` that computes what its `QuantizedModel` computes.

    Weights that are not parameters of one operator alone, e.g. standardised ones, are rounded and
    stay as they are, and so do batch norms that were not folded.

    Args:
        base: The float model, its batch norms folded; is left as it is.
        example: Two rows of input, to trace it with.
        ranges: Of each quantized tensor, to start from.
        profile: The name of the encoding and placement.
        reduce_range: 7-bit weights.
        float_layers: Layers that are not quantized.
    """
    graph_module = into_integer_operators(capture(base, example))
    found = profile_named(profile)
    placement = place(graph_module, found, float_layers=float_layers, ranges=ranges)
    quantizers = [_activation_quantizer(g, placement, found, ranges) for g in placement.groups]
    scales = {
        n: q.start for g, q in zip(placement.groups, quantizers, strict=True) for n in g.nodes
    }
    _round_weights(graph_module, placement, scales, INT7 if reduce_range else found.weight)
    for index, (group, quantizer) in enumerate(zip(placement.groups, quantizers, strict=True)):
        name = f"activation_quantizer_{index}"
        graph_module.add_submodule(name, quantizer)
        for node in group.sources:
            _round_output(node, name)
    graph_module.recompile()
    return FakeQuantized(graph_module, graph_module.graph)


def _activation_quantizer(
    group: Group, placement: Placement, profile: Profile, ranges: Mapping[str, Range]
) -> ActivationQuantizer:
    names = tuple(placement.names[node] for node in group.sources)
    spans = [ranges[name] for name in names]
    readers = {layer_of(n) for n in placement.weighted if n.args[0] in group.nodes}
    producers = [placement.absorbed.get(node, node) for node in group.sources]
    fused = placement.absorbed.values()
    own = {
        layer_of(n)
        for n in producers
        if n in placement.weighted and (n in fused or profile.rules[kind_of(n)].output)
    }
    return ActivationQuantizer(
        (min(low for low, _ in spans), max(high for _, high in spans)),
        profile.activation,
        names=names,
        layers=readers | own,
    )


def _round_output(node: Node, name: str) -> None:
    """Put a quantizer behind a node.

    Behind an activation too that its operator's codes replace in the INT8 model: rounding to codes
    that end at the activation's bounds gives the same on either side of it.
    """
    with node.graph.inserting_after(node):
        rounded = node.graph.call_module(name, (node,))
    node.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)


def _round_weights(
    graph_module: GraphModule,
    placement: Placement,
    input_scales: Mapping[Node, float],
    number_format: NumberFormat,
) -> None:
    trained = dict(graph_module.named_parameters())
    quantizers: dict[str, tuple[str, WeightQuantizer]] = {}
    for node in placement.weighted:
        source: Any = node.args[0]
        weight_node: Any = node.args[1]
        target = str(weight_node.target)
        if target not in quantizers:
            weight, bias = (constant(graph_module, a) for a in (*node.args[1:3], None)[:2])
            assert weight is not None, f"{node} has no constant weight"
            floor = np.zeros(len(weight), np.float32)
            if bias is not None:
                floor = bias_floor(bias.cpu().numpy(), input_scales[source])
            start = channel_scales(weight.cpu().numpy(), number_format, floor=floor)
            quantizer = WeightQuantizer(
                torch.from_numpy(start).to(weight.device), weight.shape, number_format, name=target
            )
            quantizer.ratio.requires_grad_(target in trained and trained[target].requires_grad)
            quantizers[target] = f"weight_quantizer_{len(quantizers)}", quantizer
            graph_module.add_submodule(*quantizers[target])
        name, quantizer = quantizers[target]
        quantizer.layers.add(layer_of(node))
        with node.graph.inserting_before(node):
            node.update_arg(1, node.graph.call_module(name, (weight_node,)))
