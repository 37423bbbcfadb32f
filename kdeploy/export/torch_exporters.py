"""PyTorch's two exporters: the one on torch.export, and the older one on TorchScript.

The older one traces a call and knows operators and modules that the newer one refuses; what
depends on values it freezes as the example had them. It is asked only when the newer one fails, a
warning says why, and the parity gate tells whether what it froze mattered.
https://docs.pytorch.org/docs/stable/onnx_export.html
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from kdeploy.errors import ModelError
from kdeploy.export import onnx_attention, onnx_block_weights, onnx_dynamic
from kdeploy.export.io_signature import FlattenOutputs, IOSignature, batch_axis, num_rows
from kdeploy.export.operator_table import operators_read_once
from kdeploy.quantization.capture import reason_of
from kdeploy.quantization.suppress_warnings import without_torch_noise
from kdeploy.system.temporary import temporary_folder
from kdeploy.torch_module.named_outputs import named_outputs

log = logging.getLogger(__name__)
# What each writes by itself; other opsets are made of these.
LOWEST_OPSET = 18
HIGHEST_TORCHSCRIPT_OPSET = 20  # of torch.onnx.export(dynamo=False)
BATCH = "batch"


def export_program(
    model: nn.Module,
    example: tuple[Tensor, ...],
    ends: IOSignature,
    *,
    opset: int,
    axes: Mapping[int, str] | Mapping[str, Mapping[int, str]],
    optimize: bool,
) -> ModelProto:
    """Return what the exporter on torch.export makes of a model with open axes.

    Args:
        model: Takes the tensors in their order.
        example: The tensors.
        ends: Their names, and those of the outputs.
        opset: At least.
        axes: Left open beside the batch; of several inputs by their names.
        optimize: Whether the exporter's optimiser runs.

    Raises:
        ModelError: it cannot; the message says what it met.
    """
    rows = num_rows(example)
    shapes = tuple(
        {**_batch_of(tensor, rows), **axes_of(axes, name)}
        for name, tensor in zip(ends.inputs, example, strict=True)
    )
    try:
        with without_torch_noise(), operators_read_once():
            program = torch.onnx.export(
                model,
                example,
                dynamo=True,
                verbose=False,
                opset_version=max(opset, LOWEST_OPSET),
                # A module that takes *inputs has one argument, a tuple.
                dynamic_shapes=(shapes,) if isinstance(model, FlattenOutputs) else shapes,
                input_names=list(ends.inputs),
                output_names=list(ends.outputs),
                optimize=optimize,
                custom_translation_table={
                    **onnx_attention.translations(),
                    **onnx_dynamic.translations(),
                    **onnx_block_weights.translations(),
                },
            )
    except torch.onnx.OnnxExporterError as error:
        raise ModelError(
            f"PyTorch {torch.__version__} cannot export the model: "
            f"{reason_of(error.__cause__ or error)}",
            hint="replace the operator that it names by one that ONNX has",
        ) from error
    assert program is not None, "the exporter returned no program"
    written: ModelProto = program.model_proto
    return written


def axes_of(axes: Any, name: str) -> dict[int, str]:
    """Return the open axes of an input, of axes that hold for all of them or by name."""
    by_name = any(isinstance(key, str) for key in axes)
    return dict(axes.get(name, {}) if by_name else axes)


def _batch_of(tensor: Tensor, rows: int) -> dict[int, str]:
    """Return the axis of the batch with its name; a scalar, as a sampling rate, has none."""
    return {batch_axis(tensor, rows): BATCH} if tensor.dim() else {}


def export_trace(
    model: nn.Module,
    example: tuple[Tensor, ...],
    ends: IOSignature,
    *,
    opset: int,
    because: ModelError,
) -> ModelProto:
    """Return what the exporter on TorchScript makes of a float model.

    Raises:
        ModelError: it cannot either; the message is `because`, why the newer one could not.
    """
    log.warning("%s; PyTorch's older exporter is used instead", because.message)
    with torch.no_grad():
        answers = tuple(named_outputs(model(*(x.clone() for x in example))).values())
    tensors = zip((*ends.inputs, *ends.outputs), (*example, *answers), strict=True)
    axes = {name: _batch_of(tensor, num_rows(example)) for name, tensor in tensors}
    try:
        with temporary_folder("trace") as folder, without_torch_noise(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated, and says what it freezes
            torch.onnx.export(
                model,
                example,
                folder / "model.onnx",
                dynamo=False,
                opset_version=min(opset, HIGHEST_TORCHSCRIPT_OPSET),
                input_names=list(ends.inputs),
                output_names=list(ends.outputs),
                dynamic_axes=axes,
            )
            return onnx.load(folder / "model.onnx")
    except Exception as error:  # it raises whatever tracing raises
        log.warning("the older exporter: %s", reason_of(error))
        # The newer exporter's reason names the user's code; the older one's names its own inside.
        raise because from error
