"""What the file that was timed is worth on a part of the data, in the runtime that was timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    part, chunk = data.test if part is None else part, chunk_of(infer, data, batch_size)
    answers = Answers(infer, data, part, chunk=chunk)
    answers.ask_for_all()
    return answers.metrics, answers.predictions


def predict(
    infer: Infer, data: Dataset, *, chunk: int, part: Split | None = None
) -> tuple[Predictions, NDArray[np.float64] | None]:
    """Return the task's predictions; the last batch is filled up to `chunk` and cut.

    Of token labels also the log-likelihood of the right class of each token that counts.
    """
    answers = Answers(infer, data, data.test if part is None else part, chunk=chunk)
    answers.ask_for_all()
    return answers.predictions, answers.log_likelihoods


class Answers:
    """A file's answers to a part, judged as they come: predictions stay, the answers do not."""

    def __init__(self, infer: Infer, data: Dataset, part: Split, *, chunk: int) -> None:
        self.part, self.task, self.chunk = part, task_of(data), chunk
        self._infer, self._data = infer, data
        self._targets = np.asarray(part.y) if part.is_labelled else None
        self._found: list[Predictions] = []
        self._likely: list[NDArray[np.float64]] = []

    @property
    def predictions(self) -> Predictions:
        """Return what was predicted so far."""
        return np.concatenate(self._found)

    @property
    def log_likelihoods(self) -> NDArray[np.float64] | None:
        """Return those of the right class of each token that counts; None: not of tokens."""
        return np.concatenate(self._likely) if self._likely else None

    @property
    def metrics(self) -> dict[str, float]:
        """Return every metric of the task on what was asked, all of the part; no label, none."""
        if self._targets is None:
            return {}
        expected = self.task.expected(self._targets)
        return self.task.metrics(self.predictions, expected, self.log_likelihoods)

    def ask_for_all(self) -> None:
        """Judge the whole part."""
        for answer in self.between(0, len(self.part)):
            del answer  # before the next one is there

    def between(
        self, start: int, stop: int
    ) -> Iterator[tuple[slice, Array | Mapping[str, Array], Array | None]]:
        """Yield which items were asked, the answer to them, and their targets."""
        for first in range(start, stop, self.chunk):
            items = slice(first, min(first + self.chunk, stop))
            outputs = self._infer(_items(self._data, self.part, items, self.chunk))
            outputs = _cut(outputs, items.stop - items.start)
            known = None if self._targets is None else self._targets[items]
            self._found.append(self.task.predictions(outputs, known))
            likely = None if known is None else self.task.log_likelihoods(outputs, known)
            self._likely += [] if likely is None else [likely]
            yield items, outputs, known
            del outputs


def one_or_all(answer: Mapping[str, Array]) -> Array | Mapping[str, Array]:
    """Return the one output of a file, or all of several by their names."""
    return next(iter(answer.values())) if len(answer) == 1 else answer


def _cut(outputs: Array | Mapping[str, Array], count: int) -> Array | Mapping[str, Array]:
    if isinstance(outputs, Mapping):
        return {name: values[:count] for name, values in outputs.items()}
    return outputs[:count]


def chunk_of(infer: Infer, data: Dataset, batch_size: int) -> int:
    """Return how many items a file is asked at once: few where answers are large."""
    chunk = data.preprocessing.at_once(CHUNK)
    try:
        infer(_items(data, data.test, slice(0, chunk), chunk))
    except ModelError:
        return batch_size
    return chunk


def _items(data: Dataset, part: Split, items: slice, size: int) -> Given:
    stored = in_memory(part.x[items])
    # Repeated items fill the batch: some files take one batch size only.
    return given(data.preprocessing.apply(repeated(stored, size)))  # type: ignore[no-any-return]
