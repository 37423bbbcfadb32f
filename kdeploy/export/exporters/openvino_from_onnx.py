"""OpenVINO's own files: the graph as `.xml`, and the weights beside it as `.bin`.

Quantized ONNX files stay quantized. Read by OpenVINO's ONNX frontend rather than its
`convert_model`, which does the same and reports its use to Intel. https://docs.openvino.ai
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor

from kdeploy.errors import MissingDependency
from kdeploy.export.contract import exporter
from kdeploy.onnx_graph.checks import refused
from kdeploy.onnx_graph.model import OnnxModel


@exporter(source={"onnx"}, suffix=".xml", runtime="openvino", rounds_to_half="compress_to_fp16")
def openvino_from_onnx(
    model: OnnxModel,
    example: Tensor,
    path: Path,
    *,
    profile: Literal["cpu", "tensorrt", "arm"] = "cpu",
    dynamic: tuple[Literal["height", "width", "length"], ...] = (),
    compress_to_fp16: bool = False,
) -> None:
    """Write `path`, and `.bin` of the same name beside it.

    Args:
        model: An ONNX file.
        example: Not needed: the file knows its input.
        path: The `.xml` file.
        profile: The encoding of a quantized model, as of `onnx`.
        dynamic: Which sizes are left open beside the batch, as of `onnx`.
        compress_to_fp16: Store float weights in half precision: half the bytes, and the processor
            computes in float32 all the same.

    Raises:
        MissingDependency: OpenVINO is not installed.
        ModelError: the file has an operator that OpenVINO does not know.
    """
    del example, profile, dynamic  # the file was made with them
    try:
        import openvino
    except ImportError as error:
        raise MissingDependency.named(
            "openvino", needed_for="`openvino`", pip="'kdeploy[openvino]'"
        ) from error
    try:
        graph = openvino.Core().read_model(model.path)
    except RuntimeError as error:
        raise refused("OpenVINO", model.path, error) from error
    openvino.save_model(graph, path, compress_to_fp16=compress_to_fp16)
