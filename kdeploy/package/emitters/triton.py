"""A model repository for NVIDIA Triton: `config.pbtxt`, the model as version 1, and its labels.

https://github.com/triton-inference-server/common, protobuf/model_config.proto. The server takes
what the model takes: preprocessing is for the client, as the manifest says it.
`tritonserver --model-repository BUNDLE/deploy/triton`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from kdeploy.errors import ModelError
from kdeploy.package.emission import Bundle, emitter
from kdeploy.package.manifest import Port
from kdeploy.package.ports import BATCH

TYPES = {
    "float32": "FP32",
    "float64": "FP64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "bool": "BOOL",
    "str": "STRING",
    **{name: name.upper() for name in ("int8", "int16", "int32", "int64")},
    **{name: name.upper() for name in ("uint8", "uint16", "uint32", "uint64")},
}
LABELS = "labels.txt"


@emitter(formats={"onnx"})
def triton(
    bundle: Bundle,
    folder: Path,
    *,
    max_batch_size: Annotated[int, Field(ge=0, le=4096)] = 8,
    instances: Annotated[int, Field(ge=1, le=64)] = 1,
    device: Literal["cpu", "gpu"] = "cpu",
    queue_delay_seconds: Annotated[float, Field(ge=0, le=1)] = 0.0,
) -> None:
    """Write the repository.

    Args:
        max_batch_size: Requests that are computed together, where the model takes batches.
        instances: Of the model, on each device.
        device: Where they compute.
        queue_delay_seconds: That a request waits for others to fill its batch.
    """
    manifest = bundle.manifest
    if manifest.state:
        names = ", ".join(f"`{state.input}`" for state in manifest.state)
        raise ModelError(
            f"triton: the model carries a state ({names}) from call to call",
            hint="leave `triton` out; the bundle's own runners keep the state",
        )
    ports = (*manifest.inputs, *manifest.outputs)
    takes_batches = max_batch_size > 0 and all(p.shape[:1] == (BATCH,) for p in ports)
    labels = LABELS if manifest.classes and manifest.outputs[0].values else ""
    batching = [f"dynamic_batching {{{_delay(queue_delay_seconds)}}}"] if takes_batches else []
    text = "\n".join(
        [
            f'name: "{bundle.slug}"',
            'backend: "onnxruntime"',
            f'default_model_filename: "{manifest.model.file}"',
            f"max_batch_size: {max_batch_size if takes_batches else 0}",
            *(_port("input", port, takes_batches) for port in manifest.inputs),
            *(
                _port("output", port, takes_batches, labels if index == 0 else "")
                for index, port in enumerate(manifest.outputs)
            ),
            f"instance_group [{{ count: {instances} kind: KIND_{device.upper()} }}]",
            *batching,
        ]
    )
    place = folder / bundle.slug
    (place / "1").mkdir(parents=True)
    for part in sorted(bundle.folder.glob("model.*")):
        shutil.copyfile(part, place / "1" / part.name)
    (place / "config.pbtxt").write_text(text + "\n")
    if labels:
        (place / labels).write_text("".join(f"{_line(name)}\n" for name in manifest.classes))


def _port(kind: str, port: Port, takes_batches: bool, labels: str = "") -> str:
    """Return the entry of an input or output; a scalar an item is one number to clients."""
    shape = port.shape[1:] if takes_batches else port.shape
    scalar = "" if shape else " reshape { shape: [] }"
    told = f' label_filename: "{labels}"' if labels else ""
    return (
        f"{kind} [{{ name: {_quoted(port.name)} data_type: TYPE_{_type(port)} "
        f"dims: [{_dims(shape)}]{scalar}{told} }}]"
    )


def _type(port: Port) -> str:
    if port.type not in TYPES:
        raise ModelError(
            f"triton: `{port.name}` is {port.type}, which the server does not know",
            hint="leave `triton` out",
        )
    return TYPES[port.type]


def _dims(shape: Iterable[int | str]) -> str:
    return ", ".join("-1" if isinstance(size, str) else str(size) for size in shape) or "1"


def _delay(seconds: float) -> str:
    return f" max_queue_delay_microseconds: {round(seconds * 1e6)} " if seconds else ""


def _quoted(text: str) -> str:
    """Return a text as protocol buffers write it: bytes that are no plain ASCII as octal."""
    shown = (chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03o}" for b in text.encode())
    return f'"{"".join(shown)}"'


def _line(name: str) -> str:
    return " ".join(name.split())
