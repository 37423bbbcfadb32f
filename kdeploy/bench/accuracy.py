"""Accuracy of the file that was timed, in the runtime that was timed, on the test part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy import registry
from kdeploy.data.contract import Dataset
from kdeploy.errors import ModelError

Infer = Callable[[NDArray[np.float32]], NDArray[Any]]
CHUNK = 64  # items at once: most files run fastest per item near it, and memory stays small


def evaluate(
    infer: Infer, data: Dataset, *, batch_size: int
) -> tuple[dict[str, float], NDArray[np.int64]]:
    """Return every `accuracy.*` metric and the predicted classes of all test items.

    Files with a fixed batch size are run in batches of `batch_size`, the size they were timed at.
    """
    predicted = predict(infer, data, chunk=_chunk(infer, data, batch_size))
    return judged("accuracy", predicted, np.asarray(data.test.y)), predicted


def judged(
    family: str, predicted: NDArray[np.int64], expected: NDArray[np.int64]
) -> dict[str, float]:
    """Return every metric whose name begins with `family` and a dot."""
    names = {t.facts["name"]: t for t in registry.techniques("metric").values()}
    return {
        name: float(technique.load()(predicted, expected))
        for name, technique in sorted(names.items(), reverse=True)
        if name.startswith(f"{family}.")
    }


def predict(infer: Infer, data: Dataset, *, chunk: int) -> NDArray[np.int64]:
    """Return the class of each test item; the last batch is filled up to `chunk` and cut."""
    count = len(data.test)
    classes = [
        infer(_items(data, start, chunk)).argmax(axis=1)[: count - start]
        for start in range(0, count, chunk)
    ]
    return np.concatenate(classes).astype(np.int64)


def _chunk(infer: Infer, data: Dataset, batch_size: int) -> int:
    try:
        infer(_items(data, 0, CHUNK))
    except ModelError:
        return batch_size
    return CHUNK


def _items(data: Dataset, start: int, size: int) -> NDArray[np.float32]:
    stored = np.asarray(data.test.x[start : start + size])
    # Repeated items fill the batch: some files take one batch size only.
    return data.preprocessing.apply(np.resize(stored, (size, *stored.shape[1:])))
