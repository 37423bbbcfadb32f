"""What a `.pte` file of ours tells of its inputs and outputs: the format itself has no names.

A constant method returns them as JSON, so that every ExecuTorch can ask for them; as plain text in
the file, they are found where there is no ExecuTorch, too.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdeploy.errors import ModelError
from kdeploy.runtimes.contract import unreadable
from kdeploy.tensor_info import TensorInfo

METHOD = "kdeploy_ends"
_BEGINNING = f'{{"{METHOD}": 1, '
LONGEST_BYTES = 2**16
"""Of the text; a model of a hundred inputs and outputs takes less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PteEnds:
    """The inputs and outputs of a file, in their order."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def text(self) -> str:
        """Return what the file says."""
        told = {METHOD: 1, "inputs": _listed(self.inputs), "outputs": _listed(self.outputs)}
        return json.dumps(told)


def read_ends(path: Path) -> PteEnds:
    """Return what a file tells, without opening it in a runtime.

    Raises:
        ModelError: it is no file of ours, or broken.
    """
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as bytes_,
        ):
            start = bytes_.find(_BEGINNING.encode())
            if start < 0:
                raise ValueError("it has no names for its inputs and outputs")
            text = bytes_[start : start + LONGEST_BYTES].decode("ascii", errors="replace")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    return parse_ends(text, path)


def parse_ends(text: str, path: Path) -> PteEnds:
    """Return what the text at the beginning of `text` says.

    Raises:
        ModelError: it is not as kdeploy writes it.
    """
    try:
        if not text.startswith(_BEGINNING):
            raise ValueError("its text begins otherwise")
        told = json.JSONDecoder().raw_decode(text[:LONGEST_BYTES])[0]
        return PteEnds(inputs=_infos(told["inputs"]), outputs=_infos(told["outputs"]))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise unreadable(path, error) from error


def ends_of(program: Any, path: Path) -> PteEnds:
    """Return the inputs and outputs of a program that ExecuTorch has opened.

    Of a file from elsewhere they have numbers for names, and the sizes are fixed: what is open in
    it, it does not tell.

    Raises:
        ModelError: it computes nothing, or the file tells of others than it has.
    """
    methods = [program.get_method_name(n) for n in range(program.num_methods())]
    if "forward" not in methods:
        raise unreadable(path, ValueError(f"its methods are {methods}, none is `forward`"))
    meta = program.method_meta("forward")
    found = PteEnds(
        inputs=_planned("input", meta.num_inputs(), meta.input_tensor_meta),
        outputs=_planned("output", meta.num_outputs(), meta.output_tensor_meta),
    )
    if METHOD not in methods:
        return found
    told = parse_ends(str(program.load_method(METHOD).call([])[0]), path)
    for own, real in ((told.inputs, found.inputs), (told.outputs, found.outputs)):
        if [len(i.shape) for i in own] != [len(i.shape) for i in real]:
            raise ModelError(
                f"{path} tells of {', '.join(map(str, own))}; it has {', '.join(map(str, real))}",
                hint="export it again: `kdeploy export executorch`",
            )
    return told


# PyTorch's numbers of types of numbers: c10/core/ScalarType.h.
_TYPES = {
    **{0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64"},
    **{5: "float16", 6: "float32", 7: "float64", 11: "bool"},
}


def _planned(kind: str, count: int, meta_of: Any) -> tuple[TensorInfo, ...]:
    metas = [meta_of(n) for n in range(count)]
    return tuple(
        TensorInfo(
            name=kind if count == 1 else f"{kind}_{n}",
            shape=tuple(meta.sizes()),
            dtype=_TYPES.get(int(meta.dtype()), "other"),
        )
        for n, meta in enumerate(metas)
    )


def _listed(infos: Sequence[TensorInfo]) -> list[list[Any]]:
    return [[info.name, list(info.shape), info.dtype] for info in infos]


def _infos(told: Any) -> tuple[TensorInfo, ...]:
    if not isinstance(told, list) or not told:
        raise ValueError("it names no tensor")
    return tuple(_info(*one) for one in told)


def _info(name: Any, shape: Any, dtype: Any) -> TensorInfo:
    if not isinstance(name, str) or dtype not in _TYPES.values():
        raise ValueError(f"a tensor of type {dtype!r:.50}")
    if not all(isinstance(size, int | str) for size in shape):
        raise ValueError(f"`{name[:100]}` has no sizes")
    return TensorInfo(name=name, shape=tuple(shape), dtype=dtype)
