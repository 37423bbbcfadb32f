"""Read from an ONNX file what a bundle must say about it: opset, inputs, outputs, quantization."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from kdeploy.errors import FileMissing, ModelError
from kdeploy.package.manifest import Manifest, Port

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

BATCH: Literal["batch"] = "batch"
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "ConvInteger", "MatMulInteger")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFacts:
    """What the file itself says."""

    opset: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    is_quantized: bool


def facts_of(path: Path) -> OnnxFacts:
    """Return the facts of a file that a runner can run: one input, batch dynamic or 1, one file.

    Raises:
        FileMissing: there is no such file.
        ModelError: it is not such an ONNX file.
    """
    import onnx

    if not path.is_file():
        raise FileMissing(f"there is no file {path}", hint="`kdeploy export onnx` makes one")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors have no common base
        raise ModelError(f"{path} is not an ONNX file: {error}", hint=_EXPORT) from None
    _refuse_external_data(model, path)
    initialized = {i.name for i in model.graph.initializer}
    inputs = tuple(_port(v) for v in model.graph.input if v.name not in initialized)
    outputs = tuple(_port(v) for v in model.graph.output)
    if len(inputs) != 1 or not outputs or inputs[0].shape[:1] not in ((BATCH,), (1,)):
        raise ModelError(
            f"{path} takes {_listed(inputs)}; a bundle runs a file with one input whose first "
            "axis is a dynamic batch, or 1",
            hint=_EXPORT,
        )
    return OnnxFacts(
        opset=max(
            (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0
        ),
        inputs=inputs,
        outputs=outputs,
        is_quantized=any(n.op_type.startswith(_QUANTIZED) for n in model.graph.node),
    )


def contradiction(manifest: Manifest, facts: OnnxFacts) -> str:
    """Return where a manifest says another thing than the file, or than itself; "" if nowhere."""
    form, ports = manifest.preprocessing, (*facts.inputs, *facts.outputs)
    said = tuple(replace(p, values="") for p in (*manifest.inputs, *manifest.outputs))
    if said != ports or manifest.model.opset != facts.opset:
        return (
            f"the file takes and gives {_listed(ports)} (opset {facts.opset}), not {_listed(said)}"
        )
    if form.shape != facts.inputs[0].shape[1:]:
        return f"the preprocessing makes {form.shape}, the file takes {facts.inputs[0].shape[1:]}"
    if not {len(form.mean), len(form.std)} <= {1, form.shape[0]} or 0.0 in form.std:
        return f"mean and std {form.mean}, {form.std} do not fit {form.shape[0]} channels"
    if form.dtype != facts.inputs[0].type:
        return f"the preprocessing makes {form.dtype}, the file takes {facts.inputs[0].type}"
    if manifest.classes and facts.outputs[0].shape[-1:] != (len(manifest.classes),):
        return f"{len(manifest.classes)} classes for outputs {facts.outputs[0].shape}"
    return ""


def _listed(ports: tuple[Port, ...]) -> str:
    return ", ".join(f"{p.name} {p.type} {list(p.shape)}" for p in ports) or "nothing"


_EXPORT = "export it again: `kdeploy export onnx`"


def _refuse_external_data(model: ModelProto, path: Path) -> None:
    from onnx.external_data_helper import uses_external_data

    outside = [t.name for t in _tensors(model.graph) if uses_external_data(t)]
    if outside:
        raise ModelError(
            f"{path} keeps tensors in other files (first: `{outside[0]}`); a bundle holds one file",
            hint="save it with its data inside: `onnx.save(onnx.load(path), path)`",
        )


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield every stored tensor: of the graph, of its nodes, of the graphs inside its nodes."""
    yield from graph.initializer
    for attribute in (a for node in graph.node for a in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)


def _port(value: ValueInfoProto) -> Port:
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    sizes: list[int | Literal["batch"]] = [
        d.dim_value if d.HasField("dim_value") else BATCH for d in tensor.shape.dim
    ]
    if BATCH in sizes[1:]:
        raise ModelError(
            f"axis {sizes.index(BATCH, 1)} of `{value.name}` has no fixed size",
            hint="only the batch may be dynamic; export with a fixed input shape",
        )
    dtype = np.dtype(tensor_dtype_to_np_dtype(tensor.elem_type))
    return Port(name=value.name, shape=tuple(sizes), type=dtype.name)
