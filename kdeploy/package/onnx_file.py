"""Read from an ONNX file what a bundle must say about it: opset, inputs, outputs, quantization."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.checks import opset_of, read_onnx
from kdeploy.package.manifest import Manifest, Port
from kdeploy.package.runner.python.rules import QUANTIZED

if TYPE_CHECKING:
    from onnx import ValueInfoProto

BATCH: Literal["batch"] = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFacts:
    """What the file itself says."""

    opset: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    is_quantized: bool


def facts_of(path: Path) -> OnnxFacts:
    """Return the facts of a file that a runner can run: one input, batch dynamic or 1.

    Raises:
        FileMissing: there is no such file, or none of those beside it.
        ModelError: it is not such an ONNX file.
    """
    model = read_onnx(path)
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
        opset=opset_of(model),
        inputs=inputs,
        outputs=outputs,
        is_quantized=any(n.op_type.startswith(QUANTIZED) for n in model.graph.node),
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


def _port(value: ValueInfoProto) -> Port:
    from onnx.helper import tensor_dtype_to_np_dtype

    if value.type.WhichOneof("value") != "tensor_type":
        raise ModelError(
            f"`{value.name[:200]}` is no tensor but {value.type.WhichOneof('value') or 'untyped'}",
            hint=_EXPORT,
        )
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise ModelError(f"`{value.name[:200]}` has no shape", hint=_EXPORT)
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
