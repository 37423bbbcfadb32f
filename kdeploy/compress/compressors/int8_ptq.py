"""INT8 by calibration: choose ranges from a few batches, without any training.

Nagel et al., A White Paper on Neural Network Quantization, 2021, arXiv:2106.08295. Weights are
symmetric per channel, activations per tensor; the number formats are those of the profile.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from kdeploy.compress.contract import CompressContext, compressor
from kdeploy.compress.mixed_precision import precision_of, quantize_within
from kdeploy.compress.ptq_preprocess import prepare_for_ptq
from kdeploy.compress.quantization_rules import check_quantizable, is_quantized, weight_format
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.quantization.fake_quant import fake_quantized
from kdeploy.quantization.number_format import INT7
from kdeploy.quantization.onnx_static import quantized_file
from kdeploy.quantization.placement import layers
from kdeploy.quantization.profiles import profile_named
from kdeploy.quantization.pt2e import QuantizedModel
from kdeploy.torch_module.layer_patterns import matching

_LOG = logging.getLogger(__name__)


@compressor(
    paper="arXiv:2106.08295",
    recoverable=False,
    machine=True,
    makes="int8",
    formats={"torch", "onnx"},
    ensures=is_quantized,
)
def int8_ptq(
    model: nn.Module,
    context: CompressContext,
    *,
    profile: Literal["cpu", "tensorrt", "arm", "xnnpack"] = "cpu",
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
        profile: The encoding: `cpu` (uint8 activations), `arm` (the same codes as int8), `xnnpack`
            (int8, the outputs of linear layers too, for ExecuTorch and LiteRT) or
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
        return context.calibration(batch_size, calibration_batches)

    if isinstance(model, OnnxModel):
        idle = {"equalize": equalize, "smooth": smooth, "adaround": adaround, "ignore": ignore}
        _warn_of_idle({**idle, "max_drop": max_drop, "sensitivity": sensitivity})
        return quantized_file(
            model,
            batches(),
            profile=profile,
            observer=observer,
            reduce_range=number_format is INT7,
        )
    ready = prepare_for_ptq(
        model,
        example,
        batches,
        number_format=number_format,
        equalize=equalize,
        smooth=smooth,
        bias_correction=bias_correction,
        rounding_iterations=adaround_iterations if adaround else 0,
    )
    calibration = ready.calibration
    said = {**ready.steps, "calibrate": f"{calibration.num_items} items, observer `{observer}`"}
    context.report["int8_ptq"] = [{"step": step, "result": result} for step, result in said.items()]
    options: Any = {
        "ranges": calibration.ranges(observer, percent=percentile),
        "profile": profile,
        "reduce_range": number_format is INT7,
    }

    def quantize(float_layers: Sequence[str]) -> QuantizedModel:
        whole = ready.with_float(float_layers)
        return QuantizedModel(whole, example, **options, float_layers=float_layers)

    names = layers(calibration.graph_module, profile_named(profile))
    ignored = matching(names, ignore, where="int8_ptq.ignore")
    if not (precision.looks or ignored):
        return QuantizedModel(ready.base, example, **options, captured=ready.captured())
    fake = fake_quantized(ready.base, example, **options, float_layers=ignored)
    return quantize_within(quantize, fake, model, context, precision, ignored=ignored)


def _warn_of_idle(settings: Mapping[str, object]) -> None:
    idle = ", ".join(f"`{name}`" for name, value in settings.items() if value)
    if idle:
        _LOG.warning("int8_ptq: of an ONNX file, %s have no effect", idle)
