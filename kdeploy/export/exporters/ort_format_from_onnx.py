"""ONNX Runtime's own format, `.ort`: the graph optimised now instead of at each start.

A device loads it faster, and a small build of ONNX Runtime reads nothing else. Outputs are those
of the ONNX file, bit for bit, where both run in the same kernels.
https://onnxruntime.ai/docs/performance/model-optimizations/ort-format-models.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor

from kdeploy.export.contract import exporter
from kdeploy.onnx_graph.checks import refused
from kdeploy.onnx_graph.model import OnnxModel

BLOCKED_LAYOUT = "NchwcTransformer"
"""Puts channels into blocks as wide as this processor's registers: nothing for ARM."""


@exporter(source={"onnx"}, suffix=".ort", runtime="ort_format", portable=False)
def ort_format_from_onnx(
    model: OnnxModel,
    example: Tensor,
    path: Path,
    *,
    profile: Literal["cpu", "tensorrt", "arm"] = "cpu",
    dynamic: tuple[Literal["height", "width", "length"], ...] = (),
    target_platform: Literal["amd64", "arm"] = "amd64",
) -> None:
    """Write `path`.

    Args:
        model: An ONNX file.
        example: Not needed: the file knows its input.
        path: The `.ort` file.
        profile: The encoding of a quantized model, as of `onnx`.
        dynamic: Which sizes are left open beside the batch, as of `onnx`.
        target_platform: `amd64` lays channels out for the registers of the processor that writes
            the file: such a file fits processors with registers as wide (AVX-512 or AVX2). `arm`
            leaves that out and takes signed integer kernels: it runs anywhere, on an x86 processor
            up to twice as slowly.

    Raises:
        ModelError: ONNX Runtime cannot open the ONNX file.
    """
    del example, profile, dynamic  # the file was made with them
    import onnxruntime

    is_arm = target_platform == "arm"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3  # it warns that the file fits this processor: `portable=False`
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.add_session_config_entry("session.qdqisint8allowed", str(int(is_arm)))
    try:
        onnxruntime.InferenceSession(
            str(model.path),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=[BLOCKED_LAYOUT] if is_arm else [],
        )
    except Exception as error:  # onnxruntime's errors have no common base
        raise refused(f"ONNX Runtime {onnxruntime.__version__}", model.path, error) from error
