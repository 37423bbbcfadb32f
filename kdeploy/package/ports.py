"""The inputs and outputs of a file as a bundle names them: an open size is the batch or has a name.

A runner calls a file with one item at a time. An input whose first axis is the batch, or 1, takes
rows of what is recorded; any other (a sampling rate, a state) takes what is recorded whole. Beside
the batch, the sizes of whole numbers may be open: texts are as long as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdeploy.errors import ModelError
from kdeploy.package.manifest import InputPort, Manifest, Port
from kdeploy.package.runner.python.rules import WHOLE
from kdeploy.runtimes.state import carried
from kdeploy.tensor_info import TensorInfo

if TYPE_CHECKING:
    from kdeploy.package.contract import FileFacts

BATCH: Literal["batch"] = "batch"


def ports_of(
    path: Path,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    *,
    takes_any_size: bool = False,
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return the inputs and outputs with the batch called "batch".

    Args:
        path: The file, for messages.
        inputs: That it takes.
        outputs: That it gives.
        takes_any_size: Whether it resizes pictures by itself: sizes beside the batch may be open.

    Raises:
        ModelError: an input of other than whole numbers has an open size beside the batch, or there
            is no output.
    """
    if not inputs or not outputs:
        raise ModelError(
            f"{path} takes {_told(inputs)} and gives {_told(outputs)}; a bundle runs a file that "
            "takes and gives something",
            hint="export it again: `kdeploy export onnx`",
        )
    open_first = {i.shape[0] for i in inputs if i.shape and isinstance(i.shape[0], str)}
    batches = open_first | {BATCH, "?"}
    states = carried(inputs, outputs)
    # What a state leaves open without a name can be nothing else than the batch.
    inputs = [_with_batch(i) if i.name in states else i for i in inputs]
    for info in inputs:
        for axis, size in enumerate(info.shape):
            is_open = isinstance(size, str) and axis > 0 and size not in batches - {"?"}
            may_be_open = takes_any_size or info.dtype in WHOLE
            if is_open and not may_be_open:
                raise ModelError(
                    f"axis {axis} of `{info.name}` has no fixed size",
                    hint="only the batch may be open, and the length of token ids; export with a "
                    "fixed input shape, or name the size of a file from elsewhere: "
                    "`--input NAME=1,3,224,224`",
                )
    fed = {output: info for info in inputs for name, output in states.items() if name == info.name}
    known = [_as_fed(o, fed[o.name]) if o.name in fed else o for o in outputs]
    return tuple(_port(i, batches) for i in inputs), tuple(_port(o, batches) for o in known)


def _with_batch(info: TensorInfo) -> TensorInfo:
    return replace(info, shape=tuple(BATCH if size == "?" else size for size in info.shape))


def _as_fed(output: TensorInfo, info: TensorInfo) -> TensorInfo:
    """Return an output that is fed back with the sizes that the input has, where it tells none."""
    sizes = (a if isinstance(a, int) else b for a, b in zip(output.shape, info.shape, strict=True))
    return replace(output, shape=tuple(sizes))


def takes(port: Port, sizes: Sequence[int]) -> bool:
    """Return whether items of these sizes are those of an input, open ones of whole numbers too."""
    open_sizes = tuple(
        size if isinstance(n, str) and port.type in WHOLE else n
        for n, size in zip(port.shape[1:], sizes, strict=False)
    )
    return len(port.shape) == len(sizes) + 1 and open_sizes == tuple(sizes)


def takes_rows(port: Port) -> bool:
    """Return whether a call takes one row of what is recorded for an input, or gives one."""
    return port.shape[:1] in ((BATCH,), (1,))


def contradiction(manifest: Manifest, facts: FileFacts) -> str:
    """Return where a manifest says another thing than the file, or than itself; "" if nowhere."""
    ports = (*facts.inputs, *facts.outputs)
    said = (*manifest.inputs, *manifest.outputs)
    if [_comparable(p) for p in said] != [_comparable(p) for p in ports]:
        return f"the file takes and gives {_listed(ports)}, not {_listed(said)}"
    if manifest.model.opset != facts.opset:
        return f"the file is of opset {facts.opset}, not {manifest.model.opset}"
    if (
        manifest.classes
        and not manifest.task
        and facts.outputs[0].shape[-1:] != (len(manifest.classes),)
    ):
        return f"{len(manifest.classes)} classes for outputs {facts.outputs[0].shape}"
    fed = {state.input for state in manifest.state}
    for port in manifest.inputs:
        if reason := _of_one_of_several(port):
            return reason
    taken = next(p for p in facts.inputs if p.name not in fed)
    return _of_preprocessing(manifest, facts, taken)


def _of_one_of_several(port: InputPort) -> str:
    form, channels = port.preprocessing, port.shape[1:2]
    if form is None:
        return ""
    if not takes_rows(port):
        return f"`{port.name}` takes {list(port.shape)}: its first axis is no dynamic batch, or 1"
    if not {len(form.mean), len(form.std)} <= {1, *channels} or 0.0 in form.std:
        return f"mean and std of `{port.name}`, {form.mean}, {form.std}, do not fit {port.shape}"
    if (form.vocabulary > 0) != (port.type == "int64"):
        return f"the data make a vocabulary of {form.vocabulary} for `{port.name}` of {port.type}"
    return ""


def _of_preprocessing(manifest: Manifest, facts: FileFacts, taken: Port) -> str:
    form = manifest.preprocessing
    if form is None:
        return ""
    if not takes_rows(taken):
        return f"`{taken.name}` takes {list(taken.shape)}: its first axis is no dynamic batch, or 1"
    if form.folded != facts.is_folded:
        return f"the preprocessing is folded: {form.folded}, that of the file {facts.is_folded}"
    if form.folded:
        made = form.pixel_shape
        is_other = tuple(n if isinstance(n, int) else 0 for n in taken.shape[1:]) != made
        return f"pixels have shape {made}, the file takes {taken.shape[1:]}" * is_other
    if not takes(taken, form.shape):
        return f"the preprocessing makes {form.shape}, the file takes {taken.shape[1:]}"
    if not {len(form.mean), len(form.std)} <= {1, form.shape[0]} or 0.0 in form.std:
        return f"mean and std {form.mean}, {form.std} do not fit {form.shape[0]} channels"
    if form.dtype != taken.type:
        return f"the preprocessing makes {form.dtype}, the file takes {taken.type}"
    return ""


def _port(info: TensorInfo, batches: set[str]) -> Port:
    shape = tuple(
        size if size not in batches else f"{info.name}.{axis}" if size == "?" and axis else BATCH
        for axis, size in enumerate(info.shape)
    )
    return Port(name=info.name, shape=shape, type=info.dtype)


def _comparable(port: Port) -> tuple[object, ...]:
    """Return a port for comparison: what an open size is called does not matter."""
    sizes = tuple("" if isinstance(size, str) else size for size in port.shape)
    return port.name, sizes, port.type


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(f"{p.name} {p.type} {list(p.shape)}" for p in ports) or "nothing"


def _told(infos: Sequence[TensorInfo]) -> str:
    return ", ".join(map(str, infos)) or "nothing"
