"""LiteRT, formerly TensorFlow Lite, on the processor: a `.tflite` file, in XNNPACK where it can.

Inputs and outputs of an INT8 file are codes; here they are quantized and dequantized with the
file's own scales, so that it takes and gives what the model does. That is part of the time.
https://ai.google.dev/edge/litert
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdeploy.errors import ModelError
from kdeploy.machine import allowed_cores
from kdeploy.runtimes.contract import Answer, Array, Given, Proof, by_name, runtime, unreadable
from kdeploy.runtimes.litert_codes import (
    CODES,
    ELIGIBLE,
    check_beginning,
    decoded,
    encoded,
    has_codes,
)
from kdeploy.tensor_info import TensorInfo

SIGNATURE = "serving_default"


@runtime(
    formats={"litert"},
    device="cpu",
    suffixes={".tflite": "litert"},
    libraries=("ai-edge-litert",),
)
class Litert:
    """A `.tflite` file in LiteRT's interpreter."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Import the library.

        Args:
            threads: Of an operator; none: all cores that this process may use.
        """
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter_of = Interpreter
        self._threads = threads or allowed_cores()
        self._interpreter: Any = None

    @staticmethod
    def unavailable() -> str | None:
        if importlib.util.find_spec("ai_edge_litert") is None:
            return "the library `ai_edge_litert` is not installed: pip install ai-edge-litert"
        return None

    @staticmethod
    def inputs_of(path: Path) -> tuple[TensorInfo, ...]:
        return _opened(path).inputs

    @staticmethod
    def outputs_of(path: Path) -> tuple[TensorInfo, ...]:
        return _opened(path).outputs

    def open(self, path: Path) -> None:
        check_beginning(path)
        self._path = path
        try:
            self._interpreter = self._interpreter_of(
                model_path=str(path), num_threads=self._threads
            )
            traced = _ends(self._interpreter)[1]
            self._interpreter.allocate_tensors()  # with one row where the batch is open
            self._taken, self._given = _ends(self._interpreter)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"LiteRT cannot open {path}: {str(error)[:300]}",
                hint="export it again: `kdeploy export litert`",
            ) from error
        self.inputs = tuple(_info(n, d) for n, d in self._taken.items())
        self.outputs = tuple(_info(n, d, traced[n]) for n, d in self._given.items())
        self._names = list(self._taken)
        self._shapes = [tuple(d["shape"]) for d in self._taken.values()]

    def infer(self, given: Given) -> Answer:
        feeds = by_name(given, self._names, self._path)
        interpreter = self._interpreter
        try:
            shapes = [feeds[name].shape for name in self._names]
            if shapes != self._shapes:
                self._resize(shapes)
            for name, detail in self._taken.items():
                interpreter.set_tensor(detail["index"], encoded(feeds[name], detail))
            interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise self._unfit(feeds, error) from error
        return {n: decoded(interpreter.get_tensor(d["index"]), d) for n, d in self._given.items()}

    def proof_of_use(self) -> Proof:
        # After the memory for other sizes was planned, tensors may have moved.
        types = {d["index"]: _type(d["dtype"]) for d in self._interpreter.get_tensor_details()}
        called = [
            (op["op_name"], _precision(types, op["inputs"]))
            for op in self._interpreter._get_ops_details()
        ]
        computed = [pair for pair in called if pair[0] != "DELEGATE"]
        eligible = [precision for name, precision in computed if name in ELIGIBLE]
        return Proof(
            provider="LiteRT, XNNPACK" if len(computed) < len(called) else "LiteRT",
            eligible=len(eligible),
            integer=sum(precision in CODES for precision in eligible),
            is_quantized=any(kind in CODES for kind in types.values()),
            operators={f"{n}:{p}": c for (n, p), c in sorted(Counter(computed).items())},
            settings={"threads": self._threads},
        )

    def close(self) -> None:
        self._interpreter = None

    def _resize(self, shapes: list[tuple[int, ...]]) -> None:
        for detail, shape, info in zip(self._taken.values(), shapes, self.inputs, strict=True):
            pairs = list(zip(shape, info.shape, strict=True))
            if any(isinstance(m, int) and n != m for n, m in pairs):
                raise ValueError("the sizes do not fit")
            self._interpreter.resize_tensor_input(detail["index"], list(shape))
        self._shapes = []  # of a resize that fails nothing is known
        self._interpreter.allocate_tensors()
        self._shapes = shapes

    def _unfit(self, feeds: Mapping[str, Array], error: Exception) -> ModelError:
        found = ", ".join(f"`{n}`: {feeds[n].dtype} {list(feeds[n].shape)}" for n in self._names)
        takes = ", ".join(map(str, self.inputs))
        return ModelError(
            f"{self._path} cannot run {found}; it takes {takes}: {str(error)[:200]}",
            hint="check the data against the file, and the batch against `max_batch` of its export",
        )


def _opened(path: Path) -> Litert:
    """Return the file opened: nothing else here reads the format."""
    if (reason := Litert.unavailable()) is not None:
        raise unreadable(path, ImportError(reason))
    opened = Litert(threads=1)
    opened.open(path)
    return opened


def _ends(interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the details of the inputs and outputs by name: of the signature, else the tensors'."""
    if SIGNATURE in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(SIGNATURE)
        return dict(runner.get_input_details()), dict(runner.get_output_details())
    taken, given = interpreter.get_input_details(), interpreter.get_output_details()
    return {d["name"]: d for d in taken}, {d["name"]: d for d in given}


def _info(
    name: str, detail: Mapping[str, Any], traced: Mapping[str, Any] | None = None
) -> TensorInfo:
    """Return what an input or output is to whoever calls: codes stand for real numbers.

    An output does not say that its batch is open: its sizes were others before one row was planned.
    """
    sizes = list(detail["shape_signature"] if traced is None else detail["shape"])
    before = sizes if traced is None else list(traced["shape"])
    shape = tuple(
        "batch" if not axis and (n < 0 or n != m) else int(n)
        for axis, (n, m) in enumerate(zip(sizes, before, strict=True))
    )
    dtype = "float32" if has_codes(detail) else _type(detail["dtype"])
    return TensorInfo(name=name, shape=shape, dtype=dtype)


def _precision(types: Mapping[int, str], inputs: Any) -> str:
    """Return the type of an operator's first input, for what it computes in."""
    found: Iterator[str] = (types[int(n)] for n in inputs if int(n) in types)
    return next(found, "")


def _type(dtype: Any) -> str:
    return str(np.dtype(dtype).name)
