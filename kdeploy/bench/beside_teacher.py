"""One file's answers to a part, a few windows at a time, each beside the teacher's to the same.

Runs in the child process. The teacher's process writes its logits of some windows to a file, those
of all others read it, and the next windows overwrite it: of no model more than that is ever held.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.bench.accuracy import Answers, Infer, chunk_of
from kdeploy.bench.next_tokens import NextTokenComparison, NextTokens, Windows
from kdeploy.data.contract import NOT_COUNTED, Dataset, Split
from kdeploy.errors import ModelError
from kdeploy.named_arrays import by_name, in_memory
from kdeploy.tasks.class_logits import of_tokens
from kdeploy.tasks.contract import judged_as

TEXT = "input_ids"
"""Of several inputs, the one that is text."""


class BesideTeacher:
    """Judges a file as `evaluate` does, and compares its next tokens with the teacher's."""

    def __init__(self, infer: Infer, data: Dataset, part: Split, *, batch_size: int) -> None:
        chunk = chunk_of(infer, data, batch_size)
        self._answers = Answers(infer, data, part, chunk=chunk)
        self._compared = NextTokenComparison()
        self.reason: str | None = None
        """Why there is no comparison, where one was asked for."""

    @property
    def num_at_once(self) -> int:
        """Return how many items are asked in one call."""
        return self._answers.chunk

    def write(self, start: int, stop: int, file: Path) -> None:
        """Answer items as the teacher; their logits (tokens, vocabulary) go to the file."""
        count = int(_counts(self._answers.part, slice(start, stop)).sum())
        kept: NDArray[np.float32] | None = None
        place = 0
        for _, outputs, known in self._answers.between(start, stop):
            logits = self._logits(outputs, known)
            if kept is None:
                shape = (count, logits.shape[1])
                kept = np.lib.format.open_memmap(file, "w+", np.float32, shape)
            kept[place : place + len(logits)] = logits
            place += len(logits)
            del outputs, logits

    def compare(self, start: int, stop: int, file: Path) -> None:
        """Answer the same items, and compare with what the teacher wrote."""
        taught = np.load(file, mmap_mode="r")
        place = 0
        for items, outputs, known in self._answers.between(start, stop):
            logits = self._logits(outputs, known)
            rows = taught[place : place + len(logits)]
            place += len(logits)
            if self.reason is None:
                try:
                    self._compared.add(rows, logits, _windows(self._answers.part, items))
                except ModelError as error:
                    self.reason = error.message
            del outputs, logits

    def answer(self, start: int, stop: int) -> None:
        """Answer items where the teacher did not."""
        self.reason = "the teacher did not answer every item"
        for answer in self._answers.between(start, stop):
            del answer

    @property
    def metrics(self) -> dict[str, float]:
        """Return every metric of the task, and those of the divergence from the teacher."""
        name = judged_as(self._answers.task)
        own = of_tokens(name, self._divergences, needs="divergences")
        return {**self._answers.metrics, **own}

    @property
    def is_labelled(self) -> bool:
        return self._answers.part.is_labelled

    @property
    def predictions(self) -> NDArray[Any]:
        return self._answers.predictions

    @property
    def next_tokens(self) -> NextTokens | None:
        """Return what differs from the teacher, None where nothing was compared."""
        return None if self._divergences is None else self._compared.found

    @property
    def _divergences(self) -> NDArray[np.float64] | None:
        found = self._compared.divergences
        return found if len(found) and self.reason is None else None

    def _logits(self, outputs: Any, known: NDArray[Any] | None) -> NDArray[Any]:
        logits: NDArray[Any] = self._answers.task.counted_logits(outputs, known)  # type: ignore[attr-defined]
        return logits


def _windows(part: Split, items: slice) -> Windows:
    windows, places = np.nonzero(_counts(part, items))
    return Windows(
        first=items.start,
        ids=_ids(part, items),
        windows=windows,
        places=places,
        labels=np.asarray(part.y[items])[windows, places],
    )


def _ids(part: Split, items: slice) -> NDArray[Any]:
    inputs = dict(by_name(in_memory(part.x[items])))
    return inputs[TEXT] if TEXT in inputs else next(iter(inputs.values()))


def _counts(part: Split, items: slice) -> NDArray[np.bool_]:
    """Return which tokens are judged, (items, tokens); all where nobody labelled any."""
    y = np.asarray(part.y[items])
    return y != NOT_COUNTED if part.is_labelled else np.ones(y.shape, np.bool_)
