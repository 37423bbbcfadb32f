"""LiteRT for Microcontrollers: what a `.tflite` file computes there, and the memory it asks for.

The interpreter of firmware without an operating system, built for this processor with its reference
kernels: answers are those of the device, times are not. The arena is the RAM that a firmware sets
aside for it; here pointers have 64 bits, so a device of 32 bits needs less. Flash is the file and
the kernels of its operators. https://github.com/tensorflow/tflite-micro
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdeploy.errors import ModelError
from kdeploy.runtimes.contract import Answer, Array, Given, Proof, by_name, runtime
from kdeploy.runtimes.litert_codes import (
    CODES,
    ELIGIBLE,
    check_beginning,
    decoded,
    encoded,
    has_codes,
)
from kdeploy.system.native_output import native_errors
from kdeploy.tensor_info import TensorInfo

LARGEST_ARENA = 2**25
"""Bytes; microcontrollers have less than 8 MiB."""
STEP_BYTES = 16
"""To which an arena and all in it are aligned."""
_USED = re.compile(r"Arena allocation total (\d+) bytes")
_MISSING = re.compile(r"op(?: for builtin opcode| code) '?(\w+)'?")


@runtime(formats={"litert"}, device="cpu", libraries=("tflite-micro",), rows=1)
class LitertMicro:
    """A `.tflite` file in the interpreter of microcontrollers, one row at a time."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Import the library.

        Args:
            threads: It has one.
        """
        from tflite_micro.python.tflite_micro import runtime as micro
        from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

        self._library, self._schema = micro, schema

    @staticmethod
    def unavailable() -> str | None:
        if importlib.util.find_spec("tflite_micro") is None:
            return "the library `tflite_micro` is not installed: pip install tflite-micro"
        return None

    def open(self, path: Path) -> None:
        check_beginning(path)
        self._path = path
        content = path.read_bytes()
        try:
            self._model = self._schema.ModelT.InitFromObj(self._schema.Model.GetRootAs(content))
            taken, given = self._names()
        except Exception as error:  # its reader raises what struct and numpy do
            raise ModelError(
                f"{path} is no whole file of LiteRT: {str(error)[:200]}",
                hint="export it again: `kdeploy export litert`",
            ) from error
        self._interpreter = self._started(content, LARGEST_ARENA)
        details = self._interpreter.get_input_details, self._interpreter.get_output_details
        self._taken = {name: details[0](i) for i, name in enumerate(taken)}
        self._given = {name: details[1](i) for i, name in enumerate(given)}
        self._check_rows()
        self.inputs = tuple(_info(name, d) for name, d in self._taken.items())
        self.outputs = tuple(_info(name, d) for name, d in self._given.items())
        self._arena_bytes = self._smallest_arena(content)

    def _check_rows(self) -> None:
        """Refuse an open batch: what it was traced with would be planned, and not be filled."""
        ends = {**self._taken, **self._given}
        odd = [name for name, detail in ends.items() if int(detail["shape"][0]) != 1]
        if odd:
            shape = [int(size) for size in ends[odd[0]]["shape"]]
            raise ModelError(
                f"{self._path} is of several rows: `{odd[0]}` is {shape}",
                hint="a microcontroller is given one: export it by `litert: {max_batch: 1}`",
            )

    def infer(self, given: Given) -> Answer:
        feeds = by_name(given, list(self._taken), self._path)
        rows = self._rows(feeds)
        answers = [self._one({name: x[i : i + 1] for name, x in feeds.items()}) for i in rows]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in self._given}

    def proof_of_use(self) -> Proof:
        called = self._operators()
        eligible = [kind for name, kind in called if name in ELIGIBLE]
        return Proof(
            provider="LiteRT for Microcontrollers, reference kernels",
            eligible=len(eligible),
            integer=sum(kind in CODES for kind in eligible),
            is_quantized=any(kind in CODES for _, kind in called),
            is_emulated=True,
            operators={f"{n}:{k}": c for (n, k), c in sorted(Counter(called).items())},
            arena_bytes=self._arena_bytes,
        )

    def close(self) -> None:
        self._interpreter = None

    def _started(self, content: bytes, arena_bytes: int) -> Any:
        with native_errors() as said:
            try:
                return self._library.Interpreter.from_bytes(content, arena_size=arena_bytes)
            except RuntimeError as error:
                told = said()
                missing = _MISSING.search(told)
                reason = (
                    f"it has no operator {missing[1]}"
                    if missing
                    else (told.splitlines() or [str(error)])[0][:300]
                )
                raise ModelError(
                    f"LiteRT for Microcontrollers cannot open {self._path}: {reason}",
                    hint="export a model of layers that it has: convolutions, linear layers, "
                    "pooling, additions, activations",
                ) from error

    def _smallest_arena(self, content: bytes) -> int:
        """Return the bytes with which the file just opens; what it says to use is a little less."""
        self._one({i.name: np.zeros(_sizes(i), i.dtype) for i in self.inputs})
        with native_errors() as said:
            self._interpreter.print_allocations()
            found = _USED.search(said())
        assert found is not None, "the interpreter does not say what it allocated"
        # Less than what it keeps ends the process.
        low = high = int(found[1]) // STEP_BYTES
        while not self._opens_in(content, high):
            low, high = high + 1, 2 * high
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._opens_in(content, middle) else (middle + 1, high)
        return high * STEP_BYTES

    def _opens_in(self, content: bytes, steps: int) -> bool:
        try:
            self._started(content, steps * STEP_BYTES)
        except ModelError:
            return False
        return True

    def _rows(self, feeds: Mapping[str, Array]) -> range:
        rows = {len(feeds[name]) for name in self._taken}
        fit = all(feeds[i.name].shape[1:] == tuple(i.shape[1:]) for i in self.inputs)
        if not fit or len(rows) != 1:
            found = ", ".join(f"`{n}`: {x.dtype} {list(x.shape)}" for n, x in feeds.items())
            raise ModelError(
                f"{self._path} cannot run {found}; it takes {', '.join(map(str, self.inputs))}",
                hint="check the data against the file",
            )
        return range(rows.pop())

    def _one(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        for index, (name, detail) in enumerate(self._taken.items()):
            self._interpreter.set_input(encoded(feeds[name], _with_scale(detail)), index)
        self._interpreter.invoke()
        return {
            name: decoded(self._interpreter.get_output(index), _with_scale(detail))
            for index, (name, detail) in enumerate(self._given.items())
        }

    def _names(self) -> tuple[list[str], list[str]]:
        """Return the inputs and outputs in the graph's order, by the signature where it has one."""
        graph = self._model.subgraphs[0]
        known: dict[int, bytes] = {}
        for signature in self._model.signatureDefs or []:
            ends = [*(signature.inputs or []), *(signature.outputs or [])]
            known |= {end.tensorIndex: end.name for end in ends}
        tensors = [known.get(i, tensor.name) for i, tensor in enumerate(graph.tensors)]
        names = [bytes(name).decode(errors="replace") for name in tensors]
        return [names[i] for i in graph.inputs], [names[i] for i in graph.outputs]

    def _operators(self) -> list[tuple[str, str]]:
        """Return the name of each operator, and the type that it computes in."""
        kinds = _by_number(self._schema.TensorType)
        names = _by_number(self._schema.BuiltinOperator)
        codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in self._model.operatorCodes]
        graph = self._model.subgraphs[0]
        return [
            (names[codes[o.opcodeIndex]], kinds[graph.tensors[o.inputs[0]].type].lower())
            for o in graph.operators
        ]


def _by_number(enumeration: Any) -> dict[int, str]:
    return {number: name for name, number in vars(enumeration).items() if isinstance(number, int)}


def _with_scale(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Return the details of a tensor with its scale as LiteRT's larger interpreter tells it."""
    known = detail["quantization_parameters"]
    scales, zero_points = known["scales"], known["zero_points"]
    pair = (float(scales[0]), int(zero_points[0])) if len(scales) else (0.0, 0)
    return {**detail, "quantization": pair}


def _info(name: str, detail: Mapping[str, Any]) -> TensorInfo:
    is_coded = has_codes(_with_scale(detail))
    dtype = "float32" if is_coded else str(np.dtype(detail["dtype"]).name)
    shape = tuple(int(size) for size in detail["shape"])
    return TensorInfo(name=name, shape=("batch", *shape[1:]), dtype=dtype)


def _sizes(info: TensorInfo) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else 1 for size in info.shape)
