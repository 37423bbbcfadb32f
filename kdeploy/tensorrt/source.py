"""The ONNX file that an engine is built of: what it holds, and the same in float16."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.operators import is_quantized
from kdeploy.onnx_graph.sparse_weights import num_two_four_of_file
from kdeploy.tensorrt.encoding import check_encoding

HALF_SCALES_OPSET = 19  # from it on QuantizeLinear takes scales in float16


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """What the proof of an engine needs to know of its file."""

    is_quantized: bool
    sparse_eligible: int
    """Layers of which at most two of every four weights along the sum are not zero."""


def facts_of(path: Path) -> SourceFacts:
    """Return what the file holds.

    Raises:
        ModelError: it is quantized as TensorRT does not read it.
    """
    model = onnx.load(path)
    check_encoding(path, model.graph)
    return SourceFacts(
        is_quantized=is_quantized(node.op_type for node in model.graph.node),
        sparse_eligible=num_two_four_of_file(path),
    )


def in_half(path: Path, folder: Path) -> Path:
    """Return the file in `folder` with its floats as float16, but for inputs and outputs.

    Raises:
        ModelError: a quantized file of an opset whose scales are float32.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel as TransformersModel

    model = onnx.load(path)
    opset = max(o.version for o in model.opset_import if not o.domain)
    is_integer = is_quantized(node.op_type for node in model.graph.node)
    if is_integer and opset < HALF_SCALES_OPSET:
        raise ModelError(
            f"{path} is quantized in opset {opset}, whose scales cannot be float16",
            hint=f"export it with `--opset {HALF_SCALES_OPSET}` or later, or leave `--fp16` out",
        )
    converted = convert_float_to_float16(model, keep_io_types=True)
    TransformersModel(converted).topological_sort()  # casts of inputs stand at the end till then
    half = folder / path.name
    is_large = converted.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF
    onnx.save(converted, half, save_as_external_data=is_large, location=f"{path.name}.data")
    return half
