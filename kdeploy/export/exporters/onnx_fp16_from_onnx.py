"""An ONNX file in half precision: half the bytes, and GPUs compute it faster.

onnxruntime's converter; inputs and outputs stay float32, as do operators that have no float16.
A processor mostly computes it in float32 and rounds in between, which is slower; so the file is
also computed with every tensor in float16, and refused where a number goes beyond 65504.
https://onnxruntime.ai/docs/performance/model-optimizations/float16.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import onnx
from onnx import GraphProto, ModelProto, TensorProto
from pydantic import Field
from torch import Tensor

from kdeploy.errors import ModelError
from kdeploy.export.contract import exporter
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.onnx_graph.operators import is_quantized


@exporter(
    source={"onnx"},
    suffix=".onnx",
    runtime="onnxruntime_cpu",
    rounds_to_half=True,
    refuses={"int8", "int8_dynamic", "int4_weights"},
)
def onnx_fp16_from_onnx(
    model: OnnxModel,
    example: Tensor,
    path: Path,
    *,
    opset: Annotated[int, Field(ge=17, le=21)] | None = None,
    dynamic: tuple[Literal["height", "width", "length"], ...] = (),
    keep_float32: tuple[str, ...] = (),
) -> None:
    """Write `path` with float16 weights and activations between float32 inputs and outputs.

    The parity gate allows what rounding every weight to float16 does to the model, times four: the
    file rounds activations as well.

    Args:
        model: A float ONNX file.
        example: Not needed: the file knows its input.
        path: The file.
        opset: The ONNX operator set of the file that it is made of, as of `onnx`.
        dynamic: Which sizes are left open beside the batch, as of `onnx`.
        keep_float32: Types of operators that shall stay float32, e.g. `[Softmax]`.

    Raises:
        ModelError: the file is quantized, or has no operator of a type that shall be kept.
    """
    del example, opset, dynamic  # the file was made with them
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel as Sorted

    source = onnx.load(model.path)
    _check(source, keep_float32)
    # The converter takes types from here, also of weights that it leaves as they are; it infers
    # those of activations anew.
    del source.graph.value_info[:]
    # A list that is given replaces the default one, which holds what has no float16 kernel.
    blocked = [*DEFAULT_OP_BLOCK_LIST, *keep_float32]
    converted = convert_float_to_float16(source, keep_io_types=True, op_block_list=blocked)
    _cast_once(converted.graph)
    _hand_on_float32(converted.graph)
    # Its casts stand at the end of the list of nodes, where ONNX does not allow them.
    Sorted(converted).topological_sort()
    onnx.save(converted, path)


def _cast_once(graph: GraphProto) -> None:
    """Keep one of equal casts: an operator that reads a tensor twice, as x * x, gets two."""
    made: set[str] = set()
    for node in list(graph.node):
        if node.op_type == "Cast" and node.output[0] in made:
            graph.node.remove(node)
        made.update(node.output)


def _hand_on_float32(graph: GraphProto) -> None:
    """Let operators that stay float32 give it to each other: the converter casts there and back."""
    casts = {n.output[0]: n for n in graph.node if n.op_type == "Cast"}
    back_in = {
        name: casts[cast.input[0]].input[0]
        for name, cast in casts.items()
        if cast.attribute[0].i == TensorProto.FLOAT
        and cast.input[0] in casts
        and casts[cast.input[0]].attribute[0].i == TensorProto.FLOAT16
    }
    for node in graph.node:
        node.input[:] = [back_in.get(name, name) for name in node.input]
    read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    # The casts back first: only then does nothing read the casts before them.
    for name in [*back_in, *(n for n, c in casts.items() if n not in back_in)]:
        if name not in read:
            graph.node.remove(casts[name])
            read = {n for node in graph.node for n in node.input} | {o.name for o in graph.output}


def _check(source: ModelProto, keep_float32: tuple[str, ...]) -> None:
    found = {node.op_type for node in source.graph.node}
    if is_quantized(found):
        raise ModelError(
            "`onnx_fp16` takes a float model, and this one has INT8 layers",
            hint="export the float model, or the INT8 one as `onnx`",
        )
    for kind in keep_float32:
        if kind not in found:
            raise ModelError(
                f"`keep_float32` names `{kind}`, and the model has no such operator",
                hint=f"its operators: {', '.join(sorted(found))}",
            )
