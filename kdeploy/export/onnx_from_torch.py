"""An ONNX file by torch.export: float, or INT8 as QuantizeLinear and DequantizeLinear.

PyTorch's dynamo exporter with a dynamic batch; INT8 weights are stored as int8. The input is
called `input`, the output `output`. https://docs.pytorch.org/docs/stable/onnx_export.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import onnx
import torch
from onnx import ModelProto
from pydantic import Field
from torch import Tensor, nn
from torch.fx import GraphModule

from kdeploy import __version__
from kdeploy.errors import ModelError
from kdeploy.export.contract import exporter
from kdeploy.export.float_layers import guard_float_layers
from kdeploy.export.onnx_dynamic import translations
from kdeploy.export.onnx_rewrites import (
    describe,
    drop_traces,
    drop_unused,
    pool_globally,
    store_integer_biases,
    transpose_weights,
)
from kdeploy.export.padding import pad_inside
from kdeploy.quantization.capture import capture, finish
from kdeploy.quantization.dynamic import DynamicModel
from kdeploy.quantization.pt2e import QuantizedModel
from kdeploy.quantization.rewrites import unify_means
from kdeploy.quantization.silence import without_torch_noise

INPUT, OUTPUT = "input", "output"
# Protocol buffers cannot hold more; larger weights go to a file beside it.
LARGEST_FILE_BYTES = 2**31 - 2**20


@exporter(source={"torch"}, suffix=".onnx", runtime="onnxruntime_cpu")
def onnx_from_torch(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    profile: Literal["cpu", "tensorrt", "arm"] = "cpu",
    opset: Annotated[int, Field(ge=18, le=21)] = 18,
) -> None:
    """Write `model` to `path` with a dynamic batch.

    Args:
        model: Float or quantized, in evaluation mode.
        example: Two rows of input, to trace the model with.
        path: The file.
        profile: The encoding of a quantized model; its ranges are written anew when it was made
            for another one. A float model has none.
        opset: The ONNX operator set; 18 is the lowest that PyTorch's exporter writes and is read
            by every runtime here.

    Raises:
        ModelError: PyTorch cannot export the model.
    """
    is_quantized = isinstance(model, QuantizedModel)
    program = _export(_graph(model, example, profile), example, opset)
    for rewrite in (drop_traces, pool_globally, transpose_weights, pad_inside):
        rewrite(program)
    if is_quantized and profile != "tensorrt":  # TensorRT refuses integer biases
        store_integer_biases(program)
        guard_float_layers(program)
    drop_unused(program)
    metadata = {
        "kdeploy.version": __version__,
        "kdeploy.profile": _profile(model, profile),
        "kdeploy.input": INPUT,
        "kdeploy.output": OUTPUT,
    }
    describe(program, metadata)
    is_large = program.ByteSize() > LARGEST_FILE_BYTES
    onnx.save(program, path, save_as_external_data=is_large, location=f"{path.name}.data")


def _profile(model: nn.Module, asked_for: str) -> str:
    if isinstance(model, DynamicModel):
        return model.wrapper
    return asked_for if isinstance(model, QuantizedModel) else "float"


def _graph(model: nn.Module, example: Tensor, profile: str) -> GraphModule:
    if isinstance(model, DynamicModel):
        return model.graph
    if isinstance(model, QuantizedModel):
        encoded = model if model.profile == profile else model.with_profile(profile)
        return encoded.graph
    graph_module = capture(model, example)
    unify_means(graph_module)
    return finish(graph_module)


def _export(graph_module: GraphModule, example: Tensor, opset: int) -> ModelProto:
    try:
        with without_torch_noise():
            program = torch.onnx.export(
                graph_module,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                dynamic_shapes=({0: "batch"},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                custom_translation_table=translations(),
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise ModelError(
            f"PyTorch {torch.__version__} cannot export the model: {reason}",
            hint="replace the operator that it names by one that ONNX has",
        ) from error
    assert program is not None, "the exporter returned no program"
    written: ModelProto = program.model_proto
    return written
