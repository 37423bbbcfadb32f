"""Accuracy of the file that was timed, in the runtime that was timed, on the test part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Dataset
from kdeploy.errors import ModelError
from kdeploy.metrics.f1_macro import f1_macro
from kdeploy.metrics.top1 import top1

Infer = Callable[[NDArray[np.float32]], NDArray[Any]]
CHUNK = 64  # items at once: most files run fastest per item near it, and memory stays small


def evaluate(
    infer: Infer, data: Dataset, *, batch_size: int
) -> tuple[dict[str, float], NDArray[np.int64]]:
    """Return the metrics and the predicted classes of all test items.

    Files with a fixed batch size are run in batches of `batch_size`, the size they were timed at.
    """
    predicted = predict(infer, data, chunk=_chunk(infer, data, batch_size))
    expected = np.asarray(data.test.y)
    metrics = {
        "accuracy.top1": top1(predicted, expected),
        "accuracy.f1_macro": f1_macro(predicted, expected),
    }
    return metrics, predicted


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
