"""Making a float model ready for integers: what `int8_ptq` changes before ranges are frozen."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from kdeploy.quantization.bias_correction import correct_biases
from kdeploy.quantization.calibration import Calibration, calibrate
from kdeploy.quantization.capture import capture
from kdeploy.quantization.equalization import equalize_layers, find_pairs
from kdeploy.quantization.fold import fold_batch_norms
from kdeploy.quantization.number_format import NumberFormat
from kdeploy.quantization.rounding import round_by_output
from kdeploy.quantization.smoothing import find_norms, largest_values, smooth_norms
from kdeploy.quantization.unshared_parameters import own_layers
from kdeploy.torch_module.input_gram import WEIGHTED, input_grams

_LOG = logging.getLogger(__name__)
# Moments of more inputs than this would take longer than any rounding is worth.
MOST_INPUTS = 8192
Batches = Callable[[], Iterable[Tensor]]


@dataclass(frozen=True)
class PreparedModel:
    """A float model that only lacks its quantizers."""

    base: nn.Module
    calibration: Calibration
    before: Mapping[str, Tensor]
    """Parameters as they were before their rounding was looked at; empty if nothing looked."""
    steps: Mapping[str, str]
    """What was done, in words."""

    def with_float(self, float_layers: Sequence[str]) -> nn.Module:
        """Return the model with float layers as they were before they were made ready."""
        if not float_layers or not self.before:
            return self.base
        twin = copy.deepcopy(self.base)
        for name, parameter in twin.named_parameters():
            if name.rpartition(".")[0] in float_layers:
                # A bias that was not there is zero.
                parameter.detach().copy_(self.before.get(name, torch.zeros_like(parameter)))
        return twin

    def captured(self) -> fx.GraphModule | None:
        """Return the calibrated graph with today's values; None if it lacks a parameter."""
        names = dict(self.base.named_parameters())
        has_new = bool(self.before) and any(name not in self.before for name in names)
        return None if has_new else self.calibration.refreshed(self.base)


def prepare_for_ptq(
    model: nn.Module,
    example: Tensor,
    batches: Batches,
    *,
    number_format: NumberFormat,
    equalize: bool,
    smooth: bool,
    bias_correction: bool,
    rounding_iterations: int,
) -> PreparedModel:
    """Return the model with its scales moved and its rounding prepared, and what it was shown.

    Args:
        model: The float model; stays as it is.
        example: A batch of one.
        batches: The batches to calibrate on; asked for once by each step that looks at data.
        number_format: Of the weights.
        equalize: See `int8_ptq`.
        smooth: See `int8_ptq`.
        bias_correction: See `int8_ptq`.
        rounding_iterations: Of AdaRound, a layer; 0 for rounding to the nearest.
    """
    is_changed = equalize or smooth or bias_correction or rounding_iterations > 0
    base = fold_batch_norms(model, example) if is_changed else model
    steps: dict[str, str] = {}
    if equalize:
        steps["equalize"] = _equalize(base, example)
    if smooth:
        steps["smooth"] = _smooth(base, example, batches)
    # After equalising and smoothing, which move the ranges; before biases and rounding, which do
    # not.
    calibration = calibrate(base, example, batches())
    steps["calibrate"] = f"{calibration.num_items} items"
    before = {name: p.detach().clone() for name, p in base.named_parameters() if is_changed}
    rounded: Mapping[str, Tensor] = {}
    if rounding_iterations:
        rounded = _round(base, calibration, batches, number_format, rounding_iterations)
        steps["adaround"] = f"{len(rounded)} layers"
    if bias_correction:
        # With the codes that AdaRound chose, before they stand in the weights: the error is to W.
        removed = correct_biases(base, calibration, number_format, rounded=rounded)
        steps["bias_correction"] = _biases_text(removed)
    for name, weight in rounded.items():
        base.get_parameter(name).detach().copy_(weight)
    return PreparedModel(base, calibration, before, steps)


def _equalize(model: nn.Module, example: Tensor) -> str:
    graph_module = capture(model, example)
    pairs, declined = find_pairs(graph_module, own_layers(graph_module, model))
    if not pairs:
        _LOG.warning("int8_ptq: `equalize` has no effect: no layer hands its scale to another")
    equalize_layers(pairs)
    return f"{len(pairs)} pairs{_layers_text(declined)}"


def _smooth(model: nn.Module, example: Tensor, batches: Batches) -> str:
    graph_module = capture(model, example)
    norms, declined = find_norms(graph_module, model, own_layers(graph_module, model))
    if not norms:
        _LOG.warning("int8_ptq: `smooth` has no effect: no layer norm feeds linear layers alone")
    else:
        smooth_norms(norms, largest_values(graph_module, [n.node for n in norms], batches()))
    return f"{len(norms)} layer norms{_layers_text(declined)}"


def _round(
    model: nn.Module,
    calibration: Calibration,
    batches: Batches,
    number_format: NumberFormat,
    iterations: int,
) -> dict[str, Tensor]:
    """Return the weights, by name, as AdaRound rounds them."""
    own = own_layers(calibration.graph_module, model).values()
    modules = dict(model.named_modules())
    names = [
        name
        for layer in own
        if isinstance(modules.get(name := layer.name.removesuffix(".weight")), WEIGHTED)
        and layer.weight[0].numel() <= MOST_INPUTS
    ]
    grams = input_grams(model, batches(), names)
    return {
        f"{name}.weight": round_by_output(
            model.get_parameter(f"{name}.weight"), gram, number_format, iterations=iterations
        )
        for name, gram in grams.items()
    }


def _layers_text(declined: Mapping[str, str]) -> str:
    return "".join(f"; not `{name}`: {reason}" for name, reason in declined.items())


def _biases_text(removed: Mapping[str, float]) -> str:
    shares = torch.tensor([*removed.values(), 0.0])
    return f"{len(removed)} layers, at most {float(shares.max()):.2%} of a layer's mean output"
