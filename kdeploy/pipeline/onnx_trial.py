"""Run an ONNX file that somebody else made once, in a process of its own, before it is run here.

A few bytes can ask for any amount of memory and time (`ConstantOfShape`, a loop), and most of them
cannot be seen without computing. What one item costs an honest network follows from its weights
and the size of an item: a file that takes more is refused, with the limit to raise if it is known.
"""

from __future__ import annotations

import json
import math
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdeploy.errors import InputError, ModelError
from kdeploy.onnx_graph.checks import file_bytes, read_onnx
from kdeploy.package.runner.python import limits

SECONDS = 120.0  # for one item; what takes longer is of no use on a device
MEMORY = "KDEPLOY_ONNX_MEMORY_MB"
# A U-Net keeps some 100 times its input; weights are copied when they are packed for a processor.
FLOOR_MEGABYTES, TIMES_THE_FILE, TIMES_AN_ITEM = 640, 8, 256
_KINDS = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    **{f"tensor({kind})": kind for kind in ("int64", "int32", "int8", "uint8", "bool")},
}
_KINDS |= {f"tensor({name})": name for name in ("uint8", "int8", "int16", "uint16", "double")}


def check_runs(path: Path) -> None:
    """Raise unless one item can be run within limits of memory and time.

    Raises:
        FileMissing, ModelError: what `read_onnx` refuses; or it takes more than its limits.
    """
    facts = path.stat() if path.is_file() else None
    _check_runs(path, (facts.st_mtime_ns, facts.st_size) if facts else ())


@lru_cache(maxsize=64)
def _check_runs(path: Path, _: tuple[int, ...]) -> None:
    megabytes = _megabytes(path)
    arguments = ["kdeploy.pipeline.onnx_trial", str(path.resolve())]
    bounds = {"--timeout": SECONDS, "--memory-limit": megabytes}
    try:
        judge(path, limits.answer("-m", arguments, bounds), megabytes)
    except (limits.Ended, SystemExit) as ended:
        raise _refused(path, str(ended), megabytes) from None


def judge(path: Path, answer: dict[str, Any], megabytes: int) -> None:
    """Raise when an item was too much; other errors are told better by whoever opens the file."""
    if "--memory-limit" in answer["error"]:
        raise _refused(path, answer["error"], megabytes)


def attempt(path: Path, megabytes: int) -> dict[str, Any]:
    """Run one item of zeros in this process, and return what came of it."""
    import numpy as np
    import onnxruntime

    threads = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    limits.limit(megabytes, SECONDS, threads)
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        feeds = {
            taken.name: np.zeros(_sizes(taken.shape), _KINDS[taken.type])
            for taken in session.get_inputs()
            if taken.type in _KINDS
        }
        session.run(None, feeds)
    except Exception as error:  # onnxruntime's errors have no common base
        return {"error": limits.reason(error, megabytes)}
    return {"error": ""}


def _megabytes(path: Path) -> int:
    """Return the memory that one item of a file may take."""
    limit = os.environ.get(MEMORY, "")
    if limit:
        if not (limit.isdecimal() and len(limit) < 10 and int(limit)):
            raise InputError(f"{MEMORY} is `{limit}`", hint="a number of megabytes, e.g. 4000")
        return int(limit)
    graph = read_onnx(path).graph
    stored = {tensor.name for tensor in graph.initializer}
    shapes = [
        [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        for value in graph.input
        if value.name not in stored
    ]
    item = 4 * sum(math.prod(shape) for shape in shapes)
    taken = TIMES_THE_FILE * file_bytes(path) + TIMES_AN_ITEM * item
    return FLOOR_MEGABYTES + taken // 2**20


def _sizes(shape: list[Any]) -> list[int]:
    return [size if isinstance(size, int) and size > 0 else 1 for size in shape]


def _refused(path: Path, why: str, megabytes: int) -> ModelError:
    return ModelError(
        f"{path} cannot be run on one item with {megabytes} MB in {SECONDS:g} s: {why}",
        hint=f"a file that asks for so much may be broken or a trap; if you trust it, allow more: "
        f"{MEMORY}={2 * megabytes}",
    )


if __name__ == "__main__":
    given = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    found = attempt(Path(sys.argv[1]), int(given["--memory-limit"]))
    sys.stdout.write(json.dumps(found))
