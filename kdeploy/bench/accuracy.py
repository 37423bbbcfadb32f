"""What the file that was timed is worth on a part of the data, in the runtime that was timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Dataset, Split
from kdeploy.errors import ModelError
from kdeploy.named_arrays import given, in_memory, repeated
from kdeploy.runtimes.contract import Given
from kdeploy.tasks.contract import Predictions, task_of

Array = NDArray[Any]
Infer = Callable[[Given], Array | Mapping[str, Array]]
CHUNK = 64  # items at once: most files run fastest per item near it, and memory stays small


def evaluate(
    infer: Infer, data: Dataset, *, batch_size: int, part: Split | None = None
) -> tuple[dict[str, float], Predictions]:
    """Return every metric of the task, and the predictions on all items of a part.

    Of a part without labels there are the predictions alone, to compare files by. Files with
    a fixed batch size are run in batches of `batch_size`, the size they were timed at.

    Args:
        infer: The file in its runtime.
        data: Whose task and preprocessing count.
        batch_size: Of files that take one size only.
        part: Of the data; None: the test part.
    """
    task, part = task_of(data), data.test if part is None else part
    chunk = _chunk(infer, data, batch_size)
    predicted, log_likelihoods = predict(infer, data, chunk=chunk, part=part)
    if not part.is_labelled:
        return {}, predicted
    expected = task.expected(np.asarray(part.y))
    return task.metrics(predicted, expected, log_likelihoods), predicted


def predict(
    infer: Infer, data: Dataset, *, chunk: int, part: Split | None = None
) -> tuple[Predictions, NDArray[np.float64] | None]:
    """Return the task's predictions; the last batch is filled up to `chunk` and cut.

    Of token labels also the log-likelihood of the right class of each token that counts.
    """
    part = data.test if part is None else part
    task, count = task_of(data), len(part)
    targets = np.asarray(part.y) if part.is_labelled else None
    found, likely = [], []
    for start in range(0, count, chunk):
        outputs = _cut(infer(_items(data, part, start, chunk)), count - start)
        known = None if targets is None else targets[start : start + chunk]
        found.append(task.predictions(outputs, known))
        if known is not None:
            likely.append(task.log_likelihoods(outputs, known))
    known_likely = [one for one in likely if one is not None]
    return np.concatenate(found), np.concatenate(known_likely) if known_likely else None


def one_or_all(answer: Mapping[str, Array]) -> Array | Mapping[str, Array]:
    """Return the one output of a file, or all of several by their names."""
    return next(iter(answer.values())) if len(answer) == 1 else answer


def _cut(outputs: Array | Mapping[str, Array], count: int) -> Array | Mapping[str, Array]:
    if isinstance(outputs, Mapping):
        return {name: values[:count] for name, values in outputs.items()}
    return outputs[:count]


def _chunk(infer: Infer, data: Dataset, batch_size: int) -> int:
    chunk = data.preprocessing.at_once(CHUNK)
    try:
        infer(_items(data, data.test, 0, chunk))
    except ModelError:
        return batch_size
    return chunk


def _items(data: Dataset, part: Split, start: int, size: int) -> Given:
    stored = in_memory(part.x[start : start + size])
    # Repeated items fill the batch: some files take one batch size only.
    return given(data.preprocessing.apply(repeated(stored, size)))  # type: ignore[no-any-return]
