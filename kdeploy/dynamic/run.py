"""Make a dynamic model: its parts, then when each of them may answer, decided on what runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy import registry
from kdeploy.data.contract import Dataset
from kdeploy.dynamic.calibration import Promise, calibrate, check_count
from kdeploy.dynamic.contract import DynamicContext
from kdeploy.errors import ModelError
from kdeploy.runtimes.dynamic_file import DynamicFile, Part, write_dynamic
from kdeploy.runtimes.dynamic_session import DynamicSession
from kdeploy.runtimes.onnx_options import cpu_options
from kdeploy.tasks.contract import has_class_rows, task_of

CHUNK = 64  # items at once


def make_dynamic(
    technique: str,
    parameters: Mapping[str, Any],
    context: DynamicContext,
    path: Path,
    data: Dataset,
    promise: Promise,
    *,
    seed: int = 0,
) -> DynamicFile:
    """Write a dynamic model and its parts; return what it says.

    Args:
        technique: The kind.
        parameters: Resolved.
        context: What it may be made of.
        path: `NAME.dynamic`.
        data: Its validation part chooses the thresholds.
        promise: What an early answer may cost.
        seed: Of which items are for the temperatures.

    Raises:
        ModelError: the task or the parts do not fit, there are too few items, or no threshold
            keeps the promise.
    """
    check_data(data, promise)
    parts: tuple[Part, ...] = registry.find("dynamic", technique).load()(
        context, path, **parameters
    )
    # Of 0 all leave at once; the session is asked for all answers anyway.
    asked = tuple(replace(part, threshold=0.0) for part in parts[:-1])
    write_dynamic(DynamicFile(kind=technique, parts=(*asked, parts[-1])), path)
    labels = np.asarray(data.validation.y, np.int64) if data.validation.is_labelled else None
    found = calibrate(answers(path, data), labels, promise, seed=seed)
    thresholds = [found.threshold] * (len(parts) - 1) + [None]
    calibrated = tuple(
        replace(part, temperature=temperature, threshold=threshold)
        for part, temperature, threshold in zip(parts, found.temperatures, thresholds, strict=True)
    )
    file = DynamicFile(kind=technique, parts=calibrated, calibration=found.found)
    write_dynamic(file, path)
    return file


def check_data(data: Dataset, promise: Promise) -> None:
    """Refuse, before any work, data on which no threshold can be chosen.

    Raises:
        ModelError: they are of another task, or too few.
    """
    task = task_of(data)
    if not has_class_rows(task.name) or data.validation.y.ndim != 1:
        raise ModelError(
            f"the task is `{task.name}`, and a dynamic model decides by the probability of an "
            "item's class",
            hint="leave `dynamic` out; it is for classification",
        )
    if data.preprocessing.inputs:
        raise ModelError(
            f"items have the inputs {data.preprocessing.told_shape()}, and the parts of a dynamic "
            "model take one",
            hint="leave `dynamic` out, or join the inputs to one array",
        )
    check_count(len(data.validation), promise)


def answers(path: Path, data: Dataset) -> list[NDArray[np.float32]]:
    """Return the logits of each part for all validation items, by the files as they are run."""
    import onnxruntime

    from kdeploy.machine import allowed_cores

    def options() -> Any:
        return cpu_options(onnxruntime, threads=allowed_cores())

    session = DynamicSession(path, options, ["CPUExecutionProvider"])
    found: list[list[NDArray[np.float32]]] = []
    for start in range(0, len(data.validation), CHUNK):
        stored = np.asarray(data.validation.x[start : start + CHUNK])
        found.append(session.infer_all(data.preprocessing.apply(stored)))
    return [np.concatenate(rows) for rows in zip(*found, strict=True)]
