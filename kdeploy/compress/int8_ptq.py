"""INT8 by calibration: choose ranges from a few batches, without any training.

Nagel et al., A White Paper on Neural Network Quantization, 2021, arXiv:2106.08295. Weights are
symmetric per channel, activations per tensor; the number formats are those of the profile.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdeploy.compress.contract import CompressContext, compressor
from kdeploy.compress.mixed_precision import ignored_layers, precision_of, quantize_within
from kdeploy.compress.quantizing import check_quantizable, is_quantized, weight_format
from kdeploy.moments import WEIGHTED, input_moments
from kdeploy.onnx_model import OnnxModel
from kdeploy.quantization.bias_correction import correct_biases
from kdeploy.quantization.calibration import Calibration, calibrate
from kdeploy.quantization.capture import capture
from kdeploy.quantization.equalization import equalize_layers, find_pairs
from kdeploy.quantization.fake_quant import fake_quantized
from kdeploy.quantization.fold import fold_batch_norms
from kdeploy.quantization.number_format import INT7, NumberFormat
from kdeploy.quantization.onnx_static import quantized_file
from kdeploy.quantization.ownership import own_layers
from kdeploy.quantization.placement import layers
from kdeploy.quantization.profiles import profile_named
from kdeploy.quantization.pt2e import QuantizedModel
from kdeploy.quantization.rounding import round_by_output
from kdeploy.quantization.smoothing import find_norms, largest_values, smooth_norms

_LOG = logging.getLogger(__name__)
# Moments of more inputs than this would take longer than any rounding is worth.
MOST_INPUTS = 8192
Batches = Callable[[], Iterable[Tensor]]


@compressor(
    paper="arXiv:2106.08295",
    recoverable=False,
    machine=True,
    formats={"torch", "onnx"},
    ensures=is_quantized,
)
def int8_ptq(
    model: nn.Module,
    context: CompressContext,
    *,
    profile: Literal["cpu", "tensorrt", "arm"] = "cpu",
    observer: Literal["min_max", "moving_average", "percentile", "entropy", "mse"] = "mse",
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99,
    calibration_batches: Annotated[int, Field(gt=0)] = 16,
    batch_size: Annotated[int, Field(gt=0)] = 32,
    reduce_range: bool | Literal["auto"] = "auto",
    equalize: bool = False,
    smooth: bool = False,
    bias_correction: bool = True,
    adaround: bool = False,
    adaround_iterations: Annotated[int, Field(gt=0)] = 1000,
    max_drop: str | None = None,
    sensitivity: bool = False,
    ignore: tuple[str, ...] = (),
) -> nn.Module:
    """Return the model with every convolution and linear layer on 8-bit integers.

    Args:
        model: The float model, or file; batch norms may stand, they are folded. A file is left
            to `onnxruntime.quantization`, with these ranges.
        context: The training data.
        profile: The encoding: `cpu` (uint8 activations), `arm` (the same codes as int8) or
            `tensorrt` (int8, zero point 0); an export may ask for another one, the ranges are the
            same.
        observer: How a range follows from the values seen: `min_max` covers all of them,
            `moving_average` the batches' average extremes, `percentile` all but the rarest,
            `entropy` clips where the codes lose the least information, `mse` where the mean
            squared error is least.
        percentile: The share of values, in percent, that the observer `percentile` covers.
        calibration_batches: How many training batches are looked at.
        batch_size: Items in a calibration batch.
        reduce_range: 7-bit weights, for x86 processors without VNNI, whose 16-bit sums saturate;
            `auto` asks this machine when the profile is `cpu`.
        equalize: Move scale between neighbouring layers until their weights are alike
            (arXiv:1906.04721); for convolutions whose channels differ much.
        smooth: Move outlying channels of layer norms into the weights after them
            (arXiv:2211.10438); for Transformers.
        bias_correction: Take out of the biases what rounding the weights adds to the outputs'
            means (arXiv:1906.04721).
        adaround: Learn for each weight whether it is rounded up or down (arXiv:2004.10568); takes
            seconds a layer.
        adaround_iterations: Steps of that for each layer.
        max_drop: The validation accuracy that may be lost, e.g. `0.5pp`; layers that hurt most stay
            float until it holds.
        sensitivity: Report what each layer on integers costs alone; `max_drop` does so too.
        ignore: Layers that stay float, by name or pattern, e.g. `[stem.*]`.

    Raises:
        OrderError: the model is quantized already.
        NotCalibrated: there was no data.
        GateFailed: `max_drop` cannot be held.
    """
    check_quantizable(model, context)
    precision = precision_of(max_drop, ignore, sensitivity, context)
    number_format = weight_format(profile, reduce_range, context)
    example = context.example

    def batches() -> Iterable[Tensor]:
        return (x for x, _ in context.batches(context.data.train, batch_size, calibration_batches))

    if isinstance(model, OnnxModel):
        if precision.looks or ignore:
            _LOG.warning("int8_ptq: of a file, `max_drop`, `sensitivity`, `ignore` choose nothing")
        return _file(model, batches(), profile, observer, number_format)
    is_changed = equalize or smooth or bias_correction or adaround
    base = fold_batch_norms(model, example) if is_changed else model
    steps: dict[str, str] = {}
    if equalize:
        steps["equalize"] = _equalize(base, example)
    if smooth:
        steps["smooth"] = _smooth(base, example, batches)
    calibration = calibrate(base, example, batches())
    steps["calibrate"] = f"{calibration.num_items} items, observer `{observer}`"
    before = {name: p.detach().clone() for name, p in base.named_parameters() if is_changed}
    rounded: Mapping[str, Tensor] = {}
    if adaround:
        rounded = _round(base, calibration, batches, number_format, adaround_iterations)
        steps["adaround"] = f"{len(rounded)} layers"
    if bias_correction:
        removed = correct_biases(base, calibration, number_format, rounded=rounded)
        steps["bias_correction"] = _said_of_biases(removed)
    for name, weight in rounded.items():
        base.get_parameter(name).detach().copy_(weight)
    context.report["int8_ptq"] = [{"step": step, "result": said} for step, said in steps.items()]
    options: Any = {
        "ranges": calibration.ranges(observer, percent=percentile),
        "profile": profile,
        "reduce_range": number_format is INT7,
    }

    def quantize(float_layers: Sequence[str]) -> QuantizedModel:
        whole = _with_float(base, before, float_layers)
        return QuantizedModel(whole, example, **options, float_layers=float_layers)

    ignored = ignored_layers(layers(calibration.graph_module, profile_named(profile)), ignore)
    if not (precision.looks or ignored):
        return quantize(())
    fake = fake_quantized(base, example, **options, float_layers=ignored)
    return quantize_within(quantize, fake, model, context, precision, ignored=ignored)


def _with_float(
    model: nn.Module, before: Mapping[str, Tensor], float_layers: Sequence[str]
) -> nn.Module:
    """Return the model with float layers as they were before they were made ready for rounding."""
    if not float_layers or not before:
        return model
    twin = copy.deepcopy(model)
    for name, parameter in twin.named_parameters():
        if name.rpartition(".")[0] in float_layers:
            # A bias that was not there is zero.
            parameter.detach().copy_(before.get(name, torch.zeros_like(parameter)))
    return twin


def _file(
    model: OnnxModel,
    batches: Iterable[Tensor],
    profile: str,
    observer: str,
    number_format: NumberFormat,
) -> OnnxModel:
    return quantized_file(
        model,
        batches,
        profile=profile,
        observer=observer,
        reduce_range=number_format is INT7,
    )


def _equalize(model: nn.Module, example: Tensor) -> str:
    graph_module = capture(model, example)
    pairs, declined = find_pairs(graph_module, own_layers(graph_module, model))
    if not pairs:
        _LOG.warning("int8_ptq: `equalize` has no effect: no layer hands its scale to another")
    equalize_layers(pairs)
    return f"{len(pairs)} pairs{_said_of(declined)}"


def _smooth(model: nn.Module, example: Tensor, batches: Batches) -> str:
    graph_module = capture(model, example)
    norms, declined = find_norms(graph_module, model, own_layers(graph_module, model))
    if not norms:
        _LOG.warning("int8_ptq: `smooth` has no effect: no layer norm feeds linear layers alone")
    else:
        smooth_norms(norms, largest_values(graph_module, [n.node for n in norms], batches()))
    return f"{len(norms)} layer norms{_said_of(declined)}"


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
    moments = input_moments(model, batches(), names)
    return {
        f"{name}.weight": round_by_output(
            model.get_parameter(f"{name}.weight"), moment, number_format, iterations=iterations
        )
        for name, moment in moments.items()
    }


def _said_of(declined: Mapping[str, str]) -> str:
    return "".join(f"; not `{name}`: {reason}" for name, reason in declined.items())


def _said_of_biases(removed: Mapping[str, float]) -> str:
    shares = torch.tensor([*removed.values(), 0.0])
    return f"{len(removed)} layers, at most {float(shares.max()):.2%} of a layer's mean output"
