"""An ONNX file by torch.export: float, or INT8 as QuantizeLinear and DequantizeLinear.

PyTorch's dynamo exporter with a dynamic batch; INT8 weights are stored as int8. The input is
called `input`, the output `output`; several are named by the model. Where the dynamo exporter
cannot, PyTorch's older one is tried, and a warning and the file's property `kdeploy.exporter` say
so. A file is written anew in another encoding or opset.
https://docs.pytorch.org/docs/stable/onnx_export.html
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, cast

import onnx
import onnx_ir as ir
from onnx import ModelProto
from pydantic import Field
from torch import Tensor, nn
from torch.fx import GraphModule

from kdeploy import __version__
from kdeploy.errors import ModelError
from kdeploy.export.contract import exporter
from kdeploy.export.extra_scales import marked, unmarked
from kdeploy.export.io_signature import (
    Example,
    FlattenOutputs,
    IOSignature,
    ends_of,
    open_axes,
    open_axes_by_name,
    tensors_in,
)
from kdeploy.export.onnx_block_weights import LOWEST_OPSET as BLOCKS_OPSET
from kdeploy.export.onnx_block_weights import needs_blocks, spell_out_blocks
from kdeploy.export.torch_exporters import LOWEST_OPSET, axes_of, export_program, export_trace
from kdeploy.onnx_graph.checks import opset_of
from kdeploy.onnx_graph.encodings import PROFILE, SCALES, encoding_pass, profile_of
from kdeploy.onnx_graph.facts import properties
from kdeploy.onnx_graph.float_layers import guard_float_layers
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.onnx_graph.opsets import in_opset
from kdeploy.onnx_graph.optimization import slimmed
from kdeploy.onnx_graph.padding import pad_inside
from kdeploy.onnx_graph.passes import GraphPass, drop_unused, rewritten
from kdeploy.onnx_graph.rewrites import (
    describe,
    drop_traces,
    pool_globally,
    store_integer_biases,
    transpose_weights,
)
from kdeploy.quantization import capture as capturing
from kdeploy.quantization.capture import flat_outputs
from kdeploy.quantization.dynamic import DynamicModel
from kdeploy.quantization.pt2e import QuantizedModel
from kdeploy.quantization.rewrites import unify_means
from kdeploy.torch_module.named_inputs import NamedTensors
from kdeploy.torch_module.named_outputs import OUTPUT

# Protocol buffers cannot hold more; larger weights go to a file beside it.
LARGEST_FILE_BYTES = 2**31 - 2**20
Axes: TypeAlias = dict[int, str] | dict[str, dict[int, str]]
DYNAMO, TORCHSCRIPT, RECODED = "torch.onnx dynamo", "torch.onnx torchscript", "kdeploy"


@exporter(source={"torch", "onnx"}, suffix=".onnx", runtime="onnxruntime_cpu")
def onnx_from_torch(
    model: nn.Module,
    example: Tensor | Example,
    path: Path,
    *,
    profile: Literal["cpu", "tensorrt", "arm"] = "cpu",
    opset: Annotated[int, Field(ge=17, le=21)] | None = None,
    dynamic: tuple[Literal["height", "width", "length"], ...] = (),
    optimize: Literal["none", "onnxslim", "onnxscript"] = "onnxscript",
    external_data: bool = False,
) -> None:
    """Write `model` to `path` with a dynamic batch.

    Args:
        model: Float or quantized, in evaluation mode, or a file.
        example: Two rows of input, to trace the model with; of several inputs a tuple, or
            `NamedTensors`, whose names the inputs of the file have.
        path: The file.
        profile: The encoding of a quantized model; its ranges are written anew when it was made
            for another one. A float model has none.
        opset: The ONNX operator set, 17 to 21. Left out: 18, the lowest that PyTorch's exporter
            writes and read by every runtime here; 21 for weights of 4 bits; of a file its own.
        dynamic: Which sizes are left open beside the batch, e.g. `[height, width]`.
        optimize: `onnxscript` is the optimiser inside PyTorch's exporter, which folds constants
            and needs nothing more; `onnxslim` runs behind it, and also on files. If the optimised
            file fails the parity gate, the file without is kept.
        external_data: Keep the weights in a file beside; always so beyond two gigabytes.

    Raises:
        ModelError: PyTorch cannot export the model, or not with these sizes or in this opset.
    """
    examples = (example,) if isinstance(example, Tensor) else example
    if isinstance(model, OnnxModel):
        program = _recoded(model, profile, opset, dynamic)
    else:
        number = _opset_for(model, opset)
        program = _exported(model, examples, profile, number, dynamic, optimize)
    if optimize == "onnxslim":
        program = slimmed(program)
    stored_bytes = sum(len(t.raw_data) for t in program.graph.initializer)
    is_beside = external_data or stored_bytes > LARGEST_FILE_BYTES
    beside = path.with_name(f"{path.name}.data")
    onnx.save(program, path, save_as_external_data=is_beside, location=beside.name)
    if beside.exists():
        shutil.copymode(path, beside)  # onnx writes it for its owner's eyes only


def _opset_for(model: nn.Module, asked_for: int | None) -> int:
    lowest = BLOCKS_OPSET if needs_blocks(model) else LOWEST_OPSET
    if asked_for is not None and needs_blocks(model) and asked_for < lowest:
        raise ModelError(
            f"opset {asked_for} has no weights of 4 bits in blocks",
            hint=f"leave `opset` out: it is {lowest} then",
        )
    return asked_for or lowest


def _recoded(
    model: OnnxModel, profile: str, opset: int | None, dynamic: tuple[str, ...]
) -> ModelProto:
    """Return the graph of a file in another encoding and opset."""
    if dynamic:
        raise ModelError(
            f"{model.path} is a file, and the sizes in it are what they are",
            hint="leave `dynamic` out, or export the model that the file was made of",
        )
    program = onnx.load(model.path)
    known = properties(program)
    is_quantized = profile_of(ir.from_proto(program)) is not None
    if is_quantized:
        program = rewritten(program, encoding_pass(profile))
    program = in_opset(program, opset or opset_of(program))
    added = {
        "kdeploy.version": __version__,
        PROFILE: known.get(PROFILE, "float") if not is_quantized else profile,
        "kdeploy.exporter": known.get("kdeploy.exporter", RECODED),
    }
    describe(program, {**properties(program), **added})
    return program


def _exported(
    model: nn.Module,
    example: Example,
    profile: str,
    opset: int,
    dynamic: tuple[str, ...],
    optimize: str,
) -> ModelProto:
    """Return the graph of a torch model, rewritten for runtimes."""
    is_quantized = isinstance(model, QuantizedModel)
    ends = ends_of(model, example)
    axes = _axes(dynamic, example)
    tensors = tensors_in(example)
    if isinstance(model, QuantizedModel) and model.profile != profile:
        model = model.with_profile(profile)
    exporter_name: str = DYNAMO
    steps: dict[str, float] = {}
    try:
        graph = _graph(model, example, ends, axes)
        program = export_program(
            graph, tensors, ends, opset=opset, axes=axes, optimize=optimize != "none"
        )
        if is_quantized and profile == "tensorrt":
            program, steps = unmarked(program)
        # Before the opset is changed: the passes read the operators as opset 18 has them.
        program = rewritten(program, *_passes(is_quantized=is_quantized, profile=profile))
        program = in_opset(program, opset)
        if needs_blocks(model):
            program = rewritten(program, spell_out_blocks, drop_unused)
    except ModelError as error:
        if dynamic or isinstance(model, QuantizedModel | DynamicModel) or needs_blocks(model):
            raise  # a trace would fix the sizes; it knows no quantizers
        exporter_name = TORCHSCRIPT
        names = ends.inputs if isinstance(example, NamedTensors) else ()
        flat = model if ends.is_plain else FlattenOutputs(model, names).eval()
        program = export_trace(flat, tensors, ends, opset=opset, because=error)
        program = rewritten(program, *_passes(is_quantized=False, profile=profile))
        program = in_opset(program, opset)
    metadata = {
        "kdeploy.version": __version__,
        "kdeploy.exporter": exporter_name,
        "kdeploy.optimize": optimize,
        PROFILE: _profile(model, profile),
        "kdeploy.input": ",".join(ends.inputs),
        "kdeploy.output": ",".join(ends.outputs),
        **({SCALES: json.dumps(steps, sort_keys=True)} if steps else {}),
    }
    describe(program, metadata)
    return program


def _passes(*, is_quantized: bool, profile: str) -> list[GraphPass]:
    passes = [drop_traces, pool_globally, transpose_weights, pad_inside]
    if is_quantized and profile != "tensorrt":  # TensorRT refuses integer biases
        passes += [store_integer_biases, guard_float_layers]
    # Last: `pad_inside` and the others leave behind what nothing reads.
    return [*passes, drop_unused]


def _profile(model: nn.Module, asked_for: str) -> str:
    if isinstance(model, DynamicModel):
        return model.wrapper
    return asked_for if isinstance(model, QuantizedModel) else "float"


def _axes(dynamic: tuple[str, ...], example: Example) -> Axes:
    if isinstance(example, NamedTensors):
        return open_axes_by_name(dynamic, example)
    return open_axes(dynamic, example)


def _graph(model: nn.Module, example: Example, ends: IOSignature, axes: Axes) -> nn.Module:
    """Return what is exported: a graph with batch norms folded that returns a row of tensors."""
    if isinstance(model, DynamicModel):
        graph_module = model.graph
    elif isinstance(model, QuantizedModel):
        graph_module = marked(model) if model.profile == "tensorrt" else model.graph
    elif isinstance(example, NamedTensors):
        opened = {name: tuple(axes_of(axes, name)) for name in ends.inputs}
        graph_module = _captured(model, cast("Tensor", example), opened)
    elif len(example) > 1:
        return FlattenOutputs(model).eval()
    else:
        graph_module = _captured(model, example[0], tuple(axes_of(axes, ends.inputs[0])))
    return graph_module if ends.outputs == (OUTPUT,) else flat_outputs(graph_module)


def _captured(model: nn.Module, example: Tensor, axes: capturing.Axes) -> GraphModule:
    graph_module = capturing.capture(model, example, axes=axes)
    unify_means(graph_module)
    return capturing.finish(graph_module)
