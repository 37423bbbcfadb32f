"""INT8 by training with the rounding in place, taught by the float model.

Esser et al., Learned Step Size Quantization, ICLR 2020, arXiv:1902.08153. It starts from
calibrated ranges with batch norms folded; weights and all scales are learned, at the very places
where the deployed model rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from kdeploy.compress.contract import CompressContext, StepTraining, compressor
from kdeploy.compress.mixed_precision import precision_of, quantize_within
from kdeploy.compress.quantization_rules import check_quantizable, is_quantized, weight_format
from kdeploy.quantization.calibration import calibrate
from kdeploy.quantization.fake_quant import (
    fake_quantized,
    learned_ranges,
    learned_weight_scales,
    write_back,
)
from kdeploy.quantization.fold import fold_batch_norms
from kdeploy.quantization.number_format import INT7
from kdeploy.quantization.placement import layers
from kdeploy.quantization.profiles import profile_named
from kdeploy.quantization.pt2e import QuantizedModel
from kdeploy.torch_module.layer_patterns import matching


@compressor(
    paper="arXiv:1902.08153",
    recoverable=False,
    trains=True,
    machine=True,
    makes="int8",
    ensures=is_quantized,
)
def int8_qat(
    model: nn.Module,
    context: CompressContext,
    *,
    profile: Literal["cpu", "tensorrt", "arm", "xnnpack"] = "cpu",
    epochs: Annotated[int, Field(gt=0)] = 3,
    learning_rate: Annotated[float, Field(gt=0)] = 0.0003,
    observer: Literal["min_max", "moving_average", "percentile", "entropy", "mse"] = "mse",
    calibration_batches: Annotated[int, Field(gt=0)] = 16,
    batch_size: Annotated[int, Field(gt=0)] = 32,
    reduce_range: bool | Literal["auto"] = "auto",
    max_drop: str | None = None,
    sensitivity: bool = False,
    ignore: tuple[str, ...] = (),
) -> nn.Module:
    """Return the model on 8-bit integers, trained to answer as the float one does.

    Args:
        model: The float model, which also teaches; batch norms are folded before the training.
        context: The training data, and how it is trained.
        profile: The encoding: `cpu` (uint8 activations), `arm` (the same codes as int8), `xnnpack`
            (int8, the outputs of linear layers too, for ExecuTorch and LiteRT) or
            `tensorrt` (int8, zero point 0). An export may ask for another one, but this is the one
            that is trained.
        epochs: Of the training.
        learning_rate: The highest of the training. Low: without the statistics of batch norms a
            step that is too long is not made good.
        observer: How the ranges that training starts from follow from the values seen, as
            `int8_ptq` does it.
        calibration_batches: How many training batches those are.
        batch_size: Items in a calibration batch.
        reduce_range: 7-bit weights, for x86 processors without VNNI, whose 16-bit sums saturate;
            `auto` asks this machine when the profile is `cpu`.
        max_drop: The validation accuracy that may be lost, e.g. `0.5pp`; layers that hurt most go
            back to float until it holds.
        sensitivity: Report what each layer on integers costs alone; `max_drop` does so too.
        ignore: Layers that stay float, by name or pattern, e.g. `[stem.*]`.

    Raises:
        OrderError: the model is quantized already.
        NotCalibrated: there was no data.
        ModelError: there is nothing to train with.
        GateFailed: `max_drop` cannot be held.
    """
    check_quantizable(model, context)
    precision = precision_of(max_drop, ignore, sensitivity, context)
    example = context.example
    # Folded before, not after: the statistics of a batch norm would move under the learned scales.
    base = fold_batch_norms(model, example)
    is_reduced = weight_format(profile, reduce_range, context) is INT7
    batches = context.calibration(batch_size, calibration_batches)
    calibration = calibrate(base, example, batches)
    ranges = calibration.ranges(observer)
    names = layers(calibration.graph_module, profile_named(profile))
    ignored = matching(names, ignore, where="int8_qat.ignore")
    fake = fake_quantized(
        base,
        example,
        ranges=ranges,
        profile=profile,
        reduce_range=is_reduced,
        float_layers=ignored,
    )
    context.train(fake, model, StepTraining(name="quantization-aware", is_last=True))
    write_back(fake, base)

    def quantize(float_layers: Sequence[str]) -> QuantizedModel:
        return QuantizedModel(
            base,
            example,
            ranges={**ranges, **learned_ranges(fake)},
            profile=profile,
            reduce_range=is_reduced,
            weight_scales=learned_weight_scales(fake),
            float_layers=float_layers,
        )

    return quantize_within(quantize, fake, model, context, precision, ignored=ignored)
