"""Bias correction: take out of the biases what rounding the weights adds to the outputs' means.

Nagel et al., Data-Free Quantization, ICCV 2019, arXiv:1906.04721, section 4.2. The output moves by
(W_q - W) x. An operator is linear, so the mean of that is the operator on the mean input, which
was kept at calibration; borders and strides count as they do in the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from kdeploy.quantization.calibration import Calibration
from kdeploy.quantization.number_format import NumberFormat, on_grid
from kdeploy.quantization.unshared_parameters import Layer, own_layers


def correct_biases(
    model: nn.Module,
    calibration: Calibration,
    weight_format: NumberFormat,
    *,
    rounded: Mapping[str, Tensor] = MappingProxyType({}),
) -> dict[str, float]:
    """Subtract the mean error of each layer's rounded weights from its bias, in place.

    A layer without a bias gets one.

    Args:
        model: The float model that was calibrated.
        calibration: Holds the mean inputs.
        weight_format: What the weights will be rounded to.
        rounded: By name, weights that are not rounded to the nearest.

    Returns:
        By the weight's name, the size of what was taken out relative to the layer's mean output.
    """
    removed: dict[str, float] = {}
    for node, layer in own_layers(calibration.graph_module, model).items():
        weight = layer.weight.detach()
        codes = rounded.get(layer.name)
        # W_q - W; its operator on the mean input is the mean shift of the output.
        error = (_nearest(weight, weight_format) if codes is None else codes) - weight
        x = calibration.input_means[node].value
        shift, usual = _mean_output(layer, x, error), _mean_output(layer, x, weight)
        if _subtract(model, layer, shift):
            removed[layer.name] = float(shift.norm() / usual.norm().clamp(min=1e-12))
    return removed


def _nearest(weight: Tensor, weight_format: NumberFormat) -> Tensor:
    codes, scales = on_grid(weight.cpu().numpy(), weight_format)
    return torch.from_numpy(codes * scales).to(weight)


def _mean_output(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """Return the mean over positions of what the operator makes of one mean item: (channels,)."""
    with torch.no_grad():
        y: Tensor = layer.node.target(x[None], weight, None, *layer.node.args[3:])  # type: ignore[operator]
    return y.flatten(2).mean((0, 2)) if y.dim() > 2 else y[0]


def _subtract(model: nn.Module, layer: Layer, shift: Tensor) -> bool:
    if layer.bias is not None:
        layer.bias.detach().sub_(shift)
        return True
    owner = model.get_submodule(layer.name.rpartition(".")[0])
    if not isinstance(owner, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return False
    owner.bias = nn.Parameter(-shift, requires_grad=layer.weight.requires_grad)
    return True
