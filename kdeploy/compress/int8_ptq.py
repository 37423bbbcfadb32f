"""INT8 by calibration: choose ranges from a few batches, without any training.

Nagel et al., A White Paper on Neural Network Quantization, 2021, arXiv:2106.08295. Weights are
symmetric per channel, activations per tensor; the number formats are those of the profile.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from kdeploy.compress.contract import CompressContext, compressor
from kdeploy.errors import NotCalibrated, OrderError
from kdeploy.onnx_model import OnnxModel
from kdeploy.quantization.contract import Wrapped
from kdeploy.quantization.onnx_static import check_integers, quantized_file
from kdeploy.quantization.pt2e import QuantizedModel, observe


def is_quantized(model: nn.Module) -> None:
    """Raise AssertionError unless the model computes on integers."""
    if isinstance(model, OnnxModel):
        check_integers(model.path)
        return
    assert isinstance(model, QuantizedModel), "the model has no quantizers"
    targets = [str(node.target) for node in model.graph.graph.nodes]
    assert any("dequantize_per_channel" in t for t in targets), "no weight is INT8"


@compressor(
    paper="arXiv:2106.08295", recoverable=False, ensures=is_quantized, formats={"torch", "onnx"}
)
def int8_ptq(
    model: nn.Module,
    context: CompressContext,
    *,
    profile: Literal["cpu", "tensorrt"] = "cpu",
    observer: Literal["min_max", "mse"] = "mse",
    calibration_batches: Annotated[int, Field(gt=0)] = 16,
    batch_size: Annotated[int, Field(gt=0)] = 32,
    reduce_range: bool = False,
) -> nn.Module:
    """Return the model with every convolution and linear layer on 8-bit integers.

    Args:
        model: The float model, or file; batch norms may stand, they are folded in the graph.
        context: The training data.
        profile: The encoding: `cpu` (uint8 activations) or `tensorrt` (int8, zero point 0); an
            export may ask for the other one, the ranges are the same.
        observer: How a range follows from the values seen: `min_max` covers all of them, `mse`
            clips where that makes the mean squared error least.
        calibration_batches: How many training batches are looked at.
        batch_size: Items in a calibration batch.
        reduce_range: 7-bit weights, for x86 processors without VNNI, whose 16-bit sums saturate.

    Raises:
        OrderError: the model is quantized already.
        NotCalibrated: there was no data.
    """
    if isinstance(model, Wrapped):
        raise OrderError(
            f"the model is quantized already (`{model.wrapper}`, profile "
            f"`{getattr(model, 'profile', '?')}`)",
            hint="leave one of the two INT8 steps out; exports re-encode: `--profile tensorrt`",
        )
    if not len(context.data.train):
        raise NotCalibrated(
            f"`{context.data.name}` has no training items to calibrate INT8 on",
            hint="calibration needs some; lower `data.validation_fraction`",
        )
    batches = context.batches(context.data.train, batch_size, calibration_batches)
    if isinstance(model, OnnxModel):
        return quantized_file(
            model,
            (x for x, _ in batches),
            profile=profile,
            observer=observer,
            reduce_range=reduce_range,
        )
    example = context.example
    ranges = observe(model, example, (x for x, _ in batches), choice=observer)
    return QuantizedModel(model, example, ranges=ranges, profile=profile, reduce_range=reduce_range)
