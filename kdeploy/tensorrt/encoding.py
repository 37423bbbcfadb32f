"""Which quantized ONNX files TensorRT reads as they are meant: int8 codes with zero points of 0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.operators import QUANTIZERS

# Of ONNX's element types INT8, INT4 and FLOAT8E4M3FN.
SIGNED = frozenset({3, 22, 17})


def check_encoding(path: Path, graph: Any) -> None:
    """Raise unless the graph of a file is float, or quantized as TensorRT takes it.

    TensorRT 10 may read uint8 codes as int8 ones, with no more than a warning, and so loses half
    of the range.

    Raises:
        ModelError: a zero point is not 0, or not of a signed type.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in QUANTIZERS]
    wrong = [node for node in nodes if not _is_for_tensorrt(node, stored)]
    if wrong:
        raise ModelError(
            f"{path} is quantized for processors: {len(wrong)} of its {len(nodes)} quantizers are "
            f"not signed with a zero point of 0 (first: `{wrong[0].name or wrong[0].output[0]}`)",
            hint="export it with `--profile tensorrt`",
        )


def _is_for_tensorrt(node: Any, stored: Mapping[str, Any]) -> bool:
    from onnx import numpy_helper

    if node.op_type == "DynamicQuantizeLinear":
        return False  # uint8 by definition
    if len(node.input) > 2 and node.input[2] in stored:
        point = stored[node.input[2]]
        return point.data_type in SIGNED and not numpy_helper.to_array(point).any()
    if node.op_type == "QuantizeLinear":  # without a zero point: uint8, unless it says otherwise
        return any(a.name == "output_dtype" and a.i in SIGNED for a in node.attribute)
    codes = stored.get(node.input[0])
    return codes is None or codes.data_type in SIGNED
