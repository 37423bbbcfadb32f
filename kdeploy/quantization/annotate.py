"""Write a placement and its ranges into a graph as PT2E annotations (torchao's Quantizer)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from kdeploy.quantization.capture import add_constant, constant, finish
from kdeploy.quantization.number_format import NumberFormat, bias_floor, channel_scales
from kdeploy.quantization.observers import Range
from kdeploy.quantization.placement import Group, Placement, place
from kdeploy.quantization.profiles import Profile
from kdeploy.quantization.torchao_pt2e import (
    ObserverBase,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)

ANNOTATION = "quantization_annotation"


class RangeQuantizer(Quantizer):  # type: ignore[misc]
    """Annotates a captured graph for PT2E: every scale is known before, from the ranges."""

    def __init__(
        self,
        profile: Profile,
        ranges: Mapping[str, Range],
        weight_format: NumberFormat,
        *,
        weight_scales: Mapping[str, Sequence[float]] | None = None,
        float_layers: Collection[str] = (),
        placed_by: Mapping[str, Range] | None = None,
    ) -> None:
        super().__init__()
        self.placed_by = placed_by
        self.profile = profile
        self.ranges = ranges
        self.weight_format = weight_format
        self.weight_scales = weight_scales or {}
        self.float_layers = float_layers

    def annotate(self, model: GraphModule) -> GraphModule:
        placement = place(
            model, self.profile, float_layers=self.float_layers, ranges=self.placed_by
        )
        for group in placement.groups:
            self._annotate_group(group, placement)
        for node in placement.weighted:
            self._annotate_weight(model, node)
        return finish(model)

    def validate(self, model: GraphModule) -> None:
        """Accept: the placement holds by construction."""

    def _annotate_group(self, group: Group, placement: Placement) -> None:
        ranges = [self.ranges[placement.names[node]] for node in group.sources]
        number_format = self.profile.activation
        scale, zero_point = number_format.scale_and_zero_point(
            min(low for low, _ in ranges), max(high for _, high in ranges)
        )
        specification = _specification(number_format, torch.tensor(scale), zero_point)
        for node in group.nodes:
            producer = placement.absorbed.get(node)
            if producer is None:
                _annotation(node).output_qspec = specification
                continue
            _annotation(producer).output_qspec = specification
            if _saturates_at(node, number_format, scale, zero_point):
                node.replace_all_uses_with(producer)
            else:
                _annotation(node).output_qspec = specification

    def _annotate_weight(self, model: GraphModule, node: Node) -> None:
        weight, bias = (constant(model, a) for a in (*node.args[1:3], None)[:2])
        assert weight is not None, f"{node} has no constant weight"
        floor = np.zeros(len(weight), np.float32)
        if bias is not None:
            floor = bias_floor(bias.cpu().numpy(), _input_scale(node))
        weight_node: Any = node.args[1]
        learned = self.weight_scales.get(str(weight_node.target))
        if learned is None:
            scales = channel_scales(weight.cpu().numpy(), self.weight_format, floor=floor)
        else:
            scales = np.maximum(np.asarray(learned, np.float32), floor)
        annotation = _annotation(node)
        annotation.allow_implicit_sharing = False
        annotation.input_qspec_map[weight_node] = _specification(
            self.weight_format, torch.from_numpy(scales).to(weight.device), 0
        )
        if bias is not None and self.profile.rounds_biases:
            steps = torch.from_numpy(scales).to(bias.device) * _input_scale(node)
            rounded = torch.round(bias / steps) * steps
            node.update_arg(2, add_constant(model, rounded, node))


class KnownParameters(ObserverBase):  # type: ignore[misc]
    """What PT2E takes for an observer: it observes nothing, its scale was known before."""

    def __init__(
        self,
        *,
        scale: Tensor,
        zero_point: int,
        dtype: torch.dtype,
        quant_min: int,
        quant_max: int,
        qscheme: torch.qscheme,
        is_dynamic: bool = False,
    ) -> None:
        super().__init__(dtype=dtype, is_dynamic=is_dynamic)
        self.register_buffer("scale", scale)
        self.zero_point = zero_point
        self.quant_min = quant_min
        self.quant_max = quant_max
        self.qscheme = qscheme
        self.ch_axis = 0

    def forward(self, x: Tensor) -> Tensor:
        return x

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        codes = torch.int8 if self.scale.dim() else torch.int64
        return self.scale, torch.full_like(self.scale, self.zero_point, dtype=codes)


def _specification(number_format: NumberFormat, scale: Tensor, zero_point: int) -> Any:
    return QuantizationSpec(
        dtype=torch.int8 if number_format.is_signed else torch.uint8,
        observer_or_fake_quant_ctr=KnownParameters.with_args(scale=scale, zero_point=zero_point),
        quant_min=number_format.qmin,
        quant_max=number_format.qmax,
        qscheme=torch.per_channel_symmetric if scale.dim() else torch.per_tensor_affine,
    )


def _annotation(node: Node) -> Any:
    return node.meta.setdefault(ANNOTATION, QuantizationAnnotation(_annotated=True))


def _input_scale(node: Node) -> float:
    before = node.args[0]
    assert isinstance(before, Node), f"{node} has no input"
    specification = _annotation(before).output_qspec
    return float(specification.observer_or_fake_quant_ctr.p.keywords["scale"])


def _saturates_at(
    activation: Node, number_format: NumberFormat, scale: float, zero_point: int
) -> bool:
    """Return whether the codes end, to half a step, within the bounds of the activation."""
    slack = 0.501 * scale
    low, high = _bounds(activation)
    lowest = (number_format.qmin - zero_point) * scale
    highest = (number_format.qmax - zero_point) * scale
    return lowest >= low - slack and highest <= high + slack


def _bounds(activation: Node) -> tuple[float, float]:
    target = activation.target
    if target is torch.ops.aten.relu.default:
        return 0.0, float("inf")
    if target is torch.ops.aten.relu6.default:
        return 0.0, 6.0
    given: dict[Any, Any] = dict(enumerate(activation.args[1:])) | dict(activation.kwargs)
    low, high = given.get(0, given.get("min")), given.get(1, given.get("max"))
    if target is torch.ops.aten.hardtanh.default:
        low, high = (-1.0 if low is None else low), (1.0 if high is None else high)
    return (
        float("-inf") if low is None else float(low),
        float("inf") if high is None else float(high),
    )
