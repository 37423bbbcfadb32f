"""Fit the input of an ONNX file to what data are like: open sizes, channels last, whole numbers.

A file from elsewhere may leave sizes open, take images (batch, height, width, channels), or take
uint8 or int32. What data give is put in front of it as operators of the file, so that calibration,
parity, measurement and the bundle see a file like any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdeploy.errors import ModelError, RecipeError
from kdeploy.onnx_graph.checks import read_onnx
from kdeploy.onnx_graph.facts import DECLARED_SHAPES
from kdeploy.onnx_graph.fields import open_unnamed

if TYPE_CHECKING:
    from onnx import ModelProto

    from kdeploy.preprocessing import Preprocessing

# Protocol buffers cannot hold more; larger weights go to a file beside it.
LARGEST_FILE_BYTES = 2**31 - 2**20
DECLARED = "kdeploy.input"
"""The property of a file whose open sizes somebody named."""
FORM = "NAME=1,3,224,224 or NAME=1,3,224,224:float32"
_FORM = re.compile(r"(?P<name>.+)=(?P<shape>\d+(,\d+)*)(:(?P<dtype>\w+))?")
_LARGEST = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What somebody says of a file's input."""

    shape: tuple[int, ...]
    dtype: str = ""


def parse_inputs(texts: Iterable[object], *, where: str) -> dict[str, Declared]:
    """Return the inputs that `NAME=1,3,224,224[:dtype]` name.

    Raises:
        RecipeError: a text of another form, a size of 0, or a name twice.
    """
    found: dict[str, Declared] = {}
    for text in texts:
        match = _FORM.fullmatch(str(text)) if len(str(text)) < 1000 else None
        shape = tuple(int(n) for n in match["shape"].split(",")) if match else ()
        if match is None or not all(0 < n <= _LARGEST for n in shape) or match["name"] in found:
            raise RecipeError(
                f"{where}: `{str(text)[:200]}` names no input of its own, with sizes above 0",
                hint=f"write {FORM}",
            )
        found[match["name"]] = Declared(shape=shape, dtype=match["dtype"] or "")
    return found


def declared_file(source: Path, target: Path, given: Mapping[str, Declared]) -> None:
    """Write `source` to `target` with the sizes of its inputs as they are declared.

    A batch that is open stays open.

    Raises:
        ModelError: the file has no such input, or another shape or type.
    """
    model = _loaded(source)
    _declare(model, source, given)
    _write(model, target)


def fitted_file(
    source: Path,
    target: Path,
    form: Preprocessing,
    given: Mapping[str, Declared],
    *,
    closes: bool = True,
) -> list[str]:
    """Write `source` to `target` so that it takes items as `form` makes them.

    Args:
        source: With one input; of several, or of one that no item fits, nothing is made.
        target: The file.
        form: Of the data.
        given: What somebody declared, which must be what the data are.
        closes: Whether open sizes alone are reason enough.

    Returns:
        What was done, in words; empty, and nothing written, where the file fits as it is.

    Raises:
        ModelError: what is declared is not what the file takes, or not what the data are.
    """
    model = _loaded(source)
    _declare(model, source, given)
    inputs = _inputs(model)
    if len(inputs) != 1 or not inputs[0].type.tensor_type.HasField("shape"):
        return []
    [value] = inputs
    said = [f"{name}={','.join(map(str, d.shape))}" for name, d in given.items()]
    dims = list(value.type.tensor_type.shape.dim)[1:]
    is_last = not _fits(dims, form.shape) and _fits(dims, _channels_last(form.shape))
    if not is_last and not _fits(dims, form.shape):
        if given:
            raise ModelError(
                f"{source}: `{'`, `'.join(said)}` is declared, and the data have items of shape "
                f"{list(form.shape)}",
                hint="leave `--input` (in a recipe `args.input`) out: the data say the sizes",
            )
        return []
    wanted = _channels_last(form.shape) if is_last else form.shape
    opened = [d for d, size in zip(dims, wanted, strict=True) if d.dim_value != size]
    for dim, size in zip(dims, wanted, strict=True):
        dim.dim_value = size
    if opened:
        said.append(f"its open sizes are {list(wanted)}, those of the data")
    dtype = _dtype(value)
    is_other = is_last or dtype not in ("float32", "int64")
    if is_other:
        said += _put_in_front(model, value, form, dtype, is_last=is_last)
    if not (closes or given or is_other):
        return []
    if said:
        _refresh(model)
        _write(model, target)
    return said


def is_declared(path: Path) -> bool:
    """Tell whether somebody named the sizes of a file's inputs."""
    return any(p.key == DECLARED for p in read_onnx(path).metadata_props)


def input_dtype(path: Path) -> str:
    """Return the type of the numbers that a file's first input takes, e.g. "uint8"."""
    inputs = _inputs(read_onnx(path))
    return _dtype(inputs[0]) if inputs else ""


def _loaded(source: Path) -> ModelProto:
    import onnx

    read_onnx(source)  # whatever is wrong with it is one error
    model = onnx.load(source)
    open_unnamed(model)
    return model


def _inputs(model: ModelProto) -> list[Any]:
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def _dtype(value: Any) -> str:
    from onnx.helper import tensor_dtype_to_np_dtype

    return str(np.dtype(tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).name)


def _declare(model: ModelProto, source: Path, given: Mapping[str, Declared]) -> None:
    from onnx.helper import set_model_props

    values = {value.name: value for value in _inputs(model)}
    for name, declared in given.items():
        if name not in values:
            listed = ", ".join(f"`{_told(value)}`" for value in values.values())
            raise ModelError(f"{source} has no input `{name}`", hint=f"it takes {listed}")
        value = values[name]
        dims = list(value.type.tensor_type.shape.dim)
        shape = declared.shape
        if not _fits(dims, shape) or (declared.dtype and declared.dtype != _dtype(value)):
            asked = f"{','.join(map(str, shape))}{':' if declared.dtype else ''}{declared.dtype}"
            raise ModelError(
                f"{source}: `{name}={asked}` does not fit its input",
                hint=f"it takes `{_told(value)}`; sizes that are open there are yours to name",
            )
    if not given:
        return
    added = {DECLARED: ", ".join(given)}
    if len(values) == 1 and not any(a.HasField("g") for n in model.graph.node for a in n.attribute):
        for name, declared in given.items():
            dims = values[name].type.tensor_type.shape.dim
            for dim, size in zip(dims[1:], declared.shape[1:], strict=True):
                dim.dim_value = size
        _refresh(model)
    else:  # branches for other sizes, or inputs that depend on one another: sizes are told beside
        shapes = {name: declared.shape for name, declared in given.items()}
        added[DECLARED_SHAPES] = json.dumps(shapes)
    known = {p.key: p.value for p in model.metadata_props}
    set_model_props(model, {**known, **added})


def _told(value: Any) -> str:
    dims = value.type.tensor_type.shape.dim
    sizes = ",".join(str(d.dim_value or d.dim_param or "?") for d in dims)
    return f"{value.name}={sizes}:{_dtype(value)}"


def _fits(dims: Sequence[Any], shape: Sequence[int]) -> bool:
    return len(dims) == len(shape) and all(
        d.dim_value in (0, size) for d, size in zip(dims, shape, strict=True)
    )


def _channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[1:], shape[0])


def _put_in_front(
    model: ModelProto, value: Any, form: Preprocessing, dtype: str, *, is_last: bool
) -> list[str]:
    """Let the file take items as data make them, by operators in front of its own input."""
    from onnx import TensorProto, helper

    name, shape = value.name, [d.dim_value for d in value.type.tensor_type.shape.dim]
    batch = value.type.tensor_type.shape.dim[0]
    kind = TensorProto.INT64 if form.is_tokens else TensorProto.FLOAT
    first = batch.dim_value or batch.dim_param or "batch"
    taken = helper.make_tensor_value_info(f"{name}_item", kind, [first, *form.shape])
    steps: list[Any] = []
    said: list[str] = []
    tensor = taken.name
    if not form.is_tokens and np.dtype(dtype).kind in "iu":
        tensor = _stored_numbers(model, tensor, form, dtype, steps)
        said.append(f"it takes {dtype}: items are brought back to the numbers that are stored")
    if dtype != ("int64" if form.is_tokens else "float32"):
        to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        steps.append(helper.make_node("Cast", [tensor], [f"{name}_cast"], to=to))
        tensor = f"{name}_cast"
        said = said or [f"it takes {dtype}: items are cast to it"]
    if is_last:
        order = [0, *range(2, len(shape)), 1]  # (N, C, H, W) -> (N, H, W, C)
        steps.append(helper.make_node("Transpose", [tensor], [f"{name}_last"], perm=order))
        tensor = f"{name}_last"
        said.append("it takes channels last: items are transposed")
    # The old input's name becomes an inner tensor's: no reader has to be changed.
    steps.append(helper.make_node("Identity", [tensor], [name]))
    for step in steps:
        step.name = f"{step.output[0]}_{step.op_type}"
    model.graph.input.remove(value)
    model.graph.input.insert(0, taken)
    for step in reversed(steps):
        model.graph.node.insert(0, step)
    return said


def _stored_numbers(
    model: ModelProto, tensor: str, form: Preprocessing, dtype: str, steps: list[Any]
) -> str:
    """Add the steps that undo the normalisation of the data; return the tensor's name."""
    from onnx import helper, numpy_helper

    channels = (-1, *(1 for _ in form.shape[1:]))
    std = np.asarray(form.std, np.float32).reshape(channels) / np.float32(form.scale)
    mean = np.asarray(form.mean, np.float32).reshape(channels) / np.float32(form.scale)
    limits = np.iinfo(dtype)
    low, high = (np.float32(max(-(2**24), min(2**24, n))) for n in (limits.min, limits.max))
    undone: tuple[tuple[str, list[Any]], ...] = (
        # (stored * scale - mean) / std, undone; Round, because the product is off by a last digit.
        *(("Mul", [std]), ("Add", [mean])),
        *(("Round", []), ("Clip", [low, high])),
    )
    for number, (operator, values) in enumerate(undone):
        held = []
        for place, array in enumerate(values):
            held.append(f"{tensor}_{number}_{place}")
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), held[-1]))
        made = f"{tensor}_{operator}"
        steps.append(helper.make_node(operator, [tensor, *held], [made]))
        tensor = made
    return tensor


def _refresh(model: ModelProto) -> None:
    """Let shapes follow from those of the inputs."""
    import onnx

    # Shapes of inner tensors that were inferred for the old sizes would contradict the new ones.
    del model.graph.value_info[:]
    if model.ByteSize() <= LARGEST_FILE_BYTES:
        shaped = onnx.shape_inference.infer_shapes(model)
        model.CopyFrom(shaped)


def _write(model: ModelProto, target: Path) -> None:
    import onnx

    is_large = model.ByteSize() > LARGEST_FILE_BYTES
    onnx.save(model, target, save_as_external_data=is_large, location=f"{target.name}.data")
