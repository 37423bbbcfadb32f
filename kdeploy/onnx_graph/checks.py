"""What must hold of an ONNX file before a runtime reads it, and what a runtime's refusal means.

All commands refuse a bad file here, in the same words. The limits of protocol buffers and of
tensors kept in other files are in https://github.com/onnx/onnx/blob/main/docs/ExternalData.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdeploy.errors import FileMissing, ModelError
from kdeploy.onnx_graph.fields import (
    check_fields,
    nodes,
    num_bytes,
    open_unnamed,
    tensors_of_model,
    told,
)
from kdeploy.onnx_graph.wire import Malformed, check_wire
from kdeploy.untrusted.git_pointer import refuse_pointer

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

# As ONNX Runtime and as OpenVINO name them.
INPUT_TYPES = frozenset({"tensor(float)", "tensor(int64)", "f32", "i64"})
# What ONNX Runtime calls types of numbers, and numpy.
NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    **{f"tensor({kind})": kind for kind in ("int8", "int16", "int32", "int64", "bool")},
    **{f"tensor({kind})": kind for kind in ("uint8", "uint16", "uint32", "uint64")},
}
_AGAIN = "export it again, or check the download"
# What runtimes say of an operator that they do not know: ONNX Runtime twice, OpenVINO.
_UNKNOWN = (
    re.compile(r"No Op registered for (\S+)"),
    re.compile(r"error: (\S+)\(-?\d+\) is not a registered function/op"),
    re.compile(r"No conversion rule found for operations: (.+)"),
)
# What ONNX Runtime has added to ONNX's own domain.
_OF_ONNXRUNTIME = frozenset({"SimplifiedLayerNormalization"})
_NEWEST_IR = re.compile(r"IR version: (\d+), max supported IR version: (\d+)")


def read_onnx(path: Path) -> ModelProto:
    """Return the graph of a file, without the tensors that it keeps in files beside it.

    Raises:
        FileMissing: there is no such file, or none of those beside it.
        ModelError: it is no whole ONNX file, a field of it holds what no reader could use, it
            holds operators that ONNX does not have, or wants to read outside its folder.
    """
    import onnx

    if not path.is_file():
        raise FileMissing(
            f"there is no ONNX file {path}",
            hint="relative paths start at the recipe's folder, or where the command is called",
        )
    if not path.stat().st_size:
        raise ModelError(f"{path} is not an ONNX file: it is empty", hint=_AGAIN)
    refuse_pointer(path, ModelError)
    try:
        check_wire(path)
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except Malformed as error:
        raise ModelError(f"{path} is not an ONNX file: {error}", hint=_AGAIN) from None
    except Exception as error:  # protobuf's errors have no public base
        raise ModelError(
            f"{path} is not an ONNX file, or only the beginning of one", hint=_AGAIN
        ) from error
    if not model.graph.node:
        raise ModelError(f"{path} is not an ONNX file: it holds no graph", hint=_AGAIN)
    try:
        check_fields(model)
    except Malformed as error:
        raise ModelError(f"{path} cannot be used: {error}", hint=_AGAIN) from None
    open_unnamed(model)
    _check_files(model, path)
    _check_operators(model, path)
    return model


def files_beside(model: ModelProto) -> list[str]:
    """Return the files that tensors are kept in, as the graph names them: from its own folder."""
    return sorted({entries["location"] for _, entries in _kept_outside(model)})


def content_sha256(path: Path) -> str:
    """Return the digest of a file and of all that it keeps in files beside it."""
    import hashlib  # 4 MB with OpenSSL, and this module is part of every measured process

    digest = hashlib.sha256()
    for name in (path.name, *files_beside(read_onnx(path))):
        with (path.parent / name).open("rb") as opened:
            while block := opened.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def file_bytes(path: Path) -> int:
    """Return the size of a file and of all that it keeps in files beside it."""
    beside = files_beside(read_onnx(path))
    return sum((path.parent / name).stat().st_size for name in (path.name, *beside))


def copy_file(path: Path, target: Path) -> None:
    """Copy an ONNX file, and beside the target, named after it, what it keeps in other files."""
    import shutil

    import onnx

    model = read_onnx(path)
    beside = files_beside(model)
    if not beside:
        shutil.copyfile(path, target)
        return
    numbers = [""] if len(beside) == 1 else [f".{n}" for n in range(len(beside))]
    renamed = {b: f"{target.name}{n}.data" for b, n in zip(beside, numbers, strict=True)}
    for tensor in tensors_of_model(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = renamed[entry.value]
    for old, new in renamed.items():
        shutil.copyfile(path.parent / old, target.parent / new)
    onnx.save(model, target)


def opset_of(model: ModelProto) -> int:
    """Return the version of ONNX's own operators."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def check_input(
    path: Path, types: Mapping[str, str], *, known: frozenset[str] = INPUT_TYPES
) -> None:
    """Raise unless a file takes tensors that data can be.

    Args:
        path: The file, for the message.
        types: Of each input by its name, as a runtime says it.
        known: The types that are taken.
    """
    if types and set(types.values()) <= known:
        return
    found = ", ".join(f"`{name}`: {kind}" for name, kind in types.items()) or "none"
    raise ModelError(
        f"{path} takes {len(types)} inputs ({found}); they may be {', '.join(sorted(known))}",
        hint="export the model so that it takes float32, or int64 token ids",
    )


def check_inputs(path: Path, types: Mapping[str, str]) -> None:
    """Raise unless a file takes tensors of numbers.

    Args:
        path: The file, for the message.
        types: Of each input by its name, as numpy spells it; "" for what numpy does not have.
    """
    others = [name for name, kind in types.items() if not kind]
    if types and not others:
        return
    found = f"`{others[0][:200]}`, which is no tensor of numbers" if others else "no input"
    raise ModelError(
        f"{path} takes {found}",
        hint="export the model so that it takes tensors: what makes numbers of text stays outside",
    )


def refused(runtime: str, path: Path, error: Exception) -> ModelError:
    """Return what it means that a runtime cannot open a file.

    Raises:
        FileMissing, ModelError: the file is at fault, whoever opens it; see `read_onnx`.
    """
    opset = opset_of(read_onnx(path))
    text, ir = str(error), _NEWEST_IR.search(str(error))
    unknown = next((found[1] for pattern in _UNKNOWN if (found := pattern.search(text))), None)
    what, hint = _reason(error), "another runtime may: `kdeploy list runtime`"
    if unknown:
        what = f"it does not know the operator {unknown.strip()}"
        hint = "replace it in the model, or run the file where it comes from"
    elif ir is not None:
        what = f"it reads ONNX's IR up to version {ir[2]}, and the file is of {ir[1]}"
        hint = "update it, or export the file again with an older `onnx`"
    elif "under development" in text:
        what = f"it does not know opset {opset} yet"
        hint = "update it, or export the file again: `--opset 18` is read everywhere"
    return ModelError(f"{runtime} cannot open {path}: {what}", hint=hint)


def unfit(path: Path, given: Mapping[str, Any], takes: Any, error: Exception) -> ModelError:
    """Return what it means that a file cannot run the arrays that it is given."""
    shapes = [list(array.shape) for array in given.values()]
    told = f"an input of shape {shapes[0]}" if len(shapes) == 1 else f"inputs of shapes {shapes}"
    return ModelError(
        f"{path} cannot run {told}; it takes {takes}: {_reason(error)}",
        hint="the data's shape and type and the file's input must fit; its batch may be fixed",
    )


def _check_files(model: ModelProto, path: Path) -> None:
    """Raise unless all tensors kept in other files are there, in the file's own folder."""
    for tensor, entries in _kept_outside(model):
        file = _file_beside(path, tensor.name, entries["location"])
        numbers = [entries.get(key, "0") for key in ("offset", "length")]
        if not all(n.isascii() and n.isdecimal() and len(n) < 20 for n in numbers):
            raise ModelError(
                f"{path} keeps its tensor {told(tensor.name)} at {told(numbers[0])} with "
                f"{told(numbers[1])} bytes, which are no numbers",
                hint=_AGAIN,
            )
        offset, length = map(int, numbers)
        # Without a length it is all the rest of the file.
        length = length or max(0, file.stat().st_size - offset)
        # A stated length that the shape contradicts; one that the file does not have is cut off,
        # below.
        if length != num_bytes(tensor) and file.stat().st_size >= offset + num_bytes(tensor):
            raise ModelError(
                f"{path}: the tensor {told(tensor.name)} is {length} bytes of `{file.name}`; its "
                f"shape {told(list(tensor.dims))} takes {num_bytes(tensor)}",
                hint=_AGAIN,
            )
        end = offset + num_bytes(tensor)
        if file.stat().st_size < end:
            raise ModelError(
                f"{path}: `{entries['location']}` is cut off: it has {file.stat().st_size} bytes, "
                f"and the tensor `{tensor.name[:200]}` ends at {end}",
                hint=_AGAIN,
            )


def _file_beside(path: Path, tensor: str, location: str) -> Path:
    """Return the file that a tensor is kept in, which is there and in the graph's own folder."""
    folder = path.parent.resolve()
    try:
        file = (folder / location).resolve()  # of a link, where it leads
        is_inside = location and not Path(location).is_absolute() and file.is_relative_to(folder)
        is_there = file.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, links in a circle
        is_inside = is_there = False
    if not is_inside:
        raise ModelError(
            f"{path} wants to read its tensor `{tensor[:200]}` from {told(location)}, outside its "
            "own folder; that is refused, for a file could read anything so",
            hint="get the file from somebody you trust, with its tensors beside it",
        )
    if not is_there:
        raise FileMissing(
            f"{path} keeps its tensor `{tensor[:200]}` in the file `{location}`, which is not "
            "beside it",
            hint="copy or download it into the same folder, under that name",
        )
    return file


def _kept_outside(model: ModelProto) -> Iterator[tuple[TensorProto, dict[str, str]]]:
    for tensor in tensors_of_model(model):
        if tensor.data_location == tensor.EXTERNAL:
            yield tensor, {"location": "", **{e.key: e.value for e in tensor.external_data}}


def _check_operators(model: ModelProto, path: Path) -> None:
    """Raise when ONNX itself has never had an operator; other domains are a runtime's matter."""
    from onnx import defs

    own = {(f.domain, f.name) for f in model.functions}
    unknown = sorted(
        {
            node.op_type
            for node in nodes(model.graph.node)
            if node.domain in ("", "ai.onnx")
            and (node.domain, node.op_type) not in own
            and not defs.has(node.op_type, domain="")
            and node.op_type not in _OF_ONNXRUNTIME
        }
    )
    if unknown:
        first = ", ".join(name[:100] or "one without a name" for name in unknown[:10])
        raise ModelError(
            f"{path} holds {len(unknown)} operators that ONNX does not have: {first}",
            hint="an operator of a library of its own needs that library's domain; "
            "else replace it in the model and export again",
        )
    if opset_of(model) > defs.onnx_opset_version():
        raise ModelError(
            f"{path} is of opset {opset_of(model)}, and the `onnx` installed here knows opsets up "
            f"to {defs.onnx_opset_version()}",
            hint="update onnx and the runtimes, or export the file again with a lower opset",
        )


def _reason(error: Exception) -> str:
    """Return the last line that says something: runtimes put their own places before it."""
    lines = [line.strip("- |") for line in str(error).splitlines() if line.strip("- |")]
    return re.sub(r"\S*/[^ ]+:\d+ ", "", lines[-1])[:300] if lines else type(error).__name__
