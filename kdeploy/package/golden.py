"""Golden data: real inputs, the outputs the file gave here, and how far another CPU may stray.

Floating-point sums depend on the order of addition, and integer kernels round ties their own way,
so the same file does not give the same bits on every CPU. The tolerance (`atol`, in units of the
output) is the larger of
- a floor: 0.001 of the outputs' standard deviation for a float file, 0.1 for a quantized one, and
- four times what the outputs move here between ONNX Runtime's fastest kernels and its plainest
  (no fusion: a quantized graph then runs in floats, rounding where the file says).
The class must be the recorded one wherever the two best outputs are further apart than `atol`;
items closer than that are near ties, and judged by `atol` only. Of a model that answers every
token, each token is such an item.

The floors are about what was seen between implementations: three residual networks on 450 digits
gave 2e-6 for float, and for INT8 0.05 within ONNX Runtime and 0.07 to OpenVINO, which is three
steps of the quantized output. INT8 itself is 0.14 to 1.0 away from float on the same items.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import ModelError
from kdeploy.machine import allowed_cores
from kdeploy.package.onnx_file import OnnxFacts
from kdeploy.package.runner.python.reading import MOST_ARRAY_BYTES
from kdeploy.package.runner.python.rules import (
    FLOAT_FLOOR,
    QUANTIZED_FLOOR,
    SPREAD_MARGIN,
)
from kdeploy.package.runner.python.rules import MOST_ITEMS as MAX_ITEMS
from kdeploy.preprocessing import Inputs
from kdeploy.runtimes.onnx_session import OnnxSession

MAX_BYTES = MOST_ARRAY_BYTES // 4
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What golden outputs may differ by, and the numbers it was derived from."""

    num_items: int
    atol: float
    top1_items: tuple[int, ...]
    output_std: float
    floor_of_std: float
    spread: float
    spread_margin: float


def write_golden(
    folder: Path, model: Path, facts: OnnxFacts, inputs: Inputs, outputs: Floats
) -> Tolerance:
    """Write `golden/`: the first items, their outputs and the tolerance.

    Raises:
        ModelError: shapes do not fit the file, or it does not give these outputs.
    """
    largest = max(inputs[:1].nbytes, outputs[:1].nbytes, 1)
    count = min(MAX_ITEMS, max(1, MAX_BYTES // largest))
    inputs, outputs = inputs[:count], outputs[:count]
    _check_shapes(facts, inputs, outputs)
    tolerance = tolerance_of(model, facts, inputs, outputs)
    golden = folder / "golden"
    golden.mkdir()
    np.savez(golden / "inputs.npz", inputs=inputs)
    np.savez(golden / "outputs.npz", outputs=outputs)
    (golden / "tolerance.json").write_text(json.dumps(asdict(tolerance), indent=2) + "\n")
    return tolerance


def tolerance_of(model: Path, facts: OnnxFacts, inputs: Inputs, outputs: Floats) -> Tolerance:
    """Return the tolerance for these golden outputs, measured on this machine."""
    fast, plain = (_outputs(model, inputs, is_plain=plain) for plain in (False, True))
    std = float(outputs.std())
    share = QUANTIZED_FLOOR if facts.is_quantized else FLOAT_FLOOR
    floor = max(share * std, 1e-6 * float(np.abs(outputs).max()), 1e-12)
    spread = float(np.abs(fast - plain).max())
    # Beyond the outputs' own deviation it would be no test.
    atol = max(floor, min(SPREAD_MARGIN * spread, std))
    if not float(np.abs(fast - outputs).max()) <= atol:
        raise ModelError(
            f"{model} does not give the golden outputs: they differ by up to "
            f"{float(np.abs(fast - outputs).max()):.3g}, allowed are {atol:.3g}",
            hint="pass the outputs of this very file, run by onnxruntime on the CPU",
        )
    rows = outputs.reshape(-1, outputs.shape[-1])
    lead = np.diff(np.sort(rows, axis=1)[:, -2:], axis=1)[:, 0]
    return Tolerance(
        num_items=len(outputs),
        atol=atol,
        top1_items=tuple(int(i) for i in np.flatnonzero(lead > atol)),
        output_std=std,
        floor_of_std=share,
        spread=spread,
        spread_margin=SPREAD_MARGIN,
    )


def _check_shapes(facts: OnnxFacts, inputs: Inputs, outputs: Floats) -> None:
    wanted, given = facts.inputs[0].shape[1:], facts.outputs[0].shape[1:]
    taken = facts.inputs[0].type
    if inputs.shape[1:] != wanted or inputs.dtype != taken or len(given) not in (1, 2):
        raise ModelError(
            f"the file takes {taken} items of shape {list(wanted)} and gives {list(given)}; "
            f"the golden inputs are {inputs.dtype} of shape {list(inputs.shape)}",
            hint="pass preprocessed items of a classifier, (k, *shape) and (k, classes) or "
            "(k, tokens, classes)",
        )
    if outputs.shape != (len(inputs), *given) or len(inputs) == 0 or given[-1] == 1:
        raise ModelError(
            f"the golden outputs have shape {list(outputs.shape)}; expected {len(inputs)} rows "
            f"of {given[-1]} classes, at least one row and two classes",
            hint="pass the outputs of the same file for the same inputs",
        )
    if not (np.isfinite(inputs).all() and np.isfinite(outputs).all()):
        what, values = ("inputs", inputs) if not np.isfinite(inputs).all() else ("outputs", outputs)
        rows = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        raise ModelError(
            f"the golden {what} hold NaN or infinity in {rows.sum()} of {len(values)} items (the "
            f"first, counted from 0: {int(np.flatnonzero(rows)[0])})",
            hint="a file that answers such items with no number is not shipped: look at the item, "
            "and mend the layer that it breaks",
        )


def _outputs(model: Path, inputs: Inputs, *, is_plain: bool) -> Floats:
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel

    def options() -> Any:
        chosen = onnxruntime.SessionOptions()
        chosen.log_severity_level = 3
        level = levels.ORT_DISABLE_ALL if is_plain else levels.ORT_ENABLE_ALL
        chosen.graph_optimization_level = level
        chosen.intra_op_num_threads = allowed_cores()
        return chosen

    session = OnnxSession(model, options, ["CPUExecutionProvider"])
    # Item by item, as the runner does.
    return np.concatenate([session.infer(inputs[i : i + 1]) for i in range(len(inputs))])
