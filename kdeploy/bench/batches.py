"""The batches of a pool as a runtime is given them, and a state that goes from call to call.

Part of every measured process: numpy only. A model of one input is given bare arrays, any other a
mapping by the names of its inputs. What has no row for each item (a sampling rate) is given whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # a device's Python may be too old for the contract of runtimes
    from collections.abc import Callable

    from kdeploy.runtimes.contract import Answer, Array, Given

    Infer = Callable[[Given], Answer]


class Batches:
    """Arrays of a pool, cut into batches.

    Args:
        file: An `.npy` file of the items of one input, or an `.npz` file of all inputs in order.
        inputs: Of an `.npz` file, each input's `name` and whether it has `rows`.
    """

    def __init__(self, file: Path, inputs: Sequence[Mapping[str, Any]] = ()) -> None:
        self._one: Array | None = None
        self._arrays: dict[str, Array] = {}
        self._with_rows: set[str] = set()
        if not inputs:
            self._one = np.load(file)
            return
        with np.load(file) as stored:
            for told, key in zip(inputs, stored.files):  # noqa: B905 - Python 3.9
                self._arrays[told["name"]] = stored[key]
                self._with_rows |= {told["name"]} if told["rows"] else set()

    def cut(self, size: int) -> list[Given]:
        """Return all batches of so many items."""
        return [self._part(i, i + size) for i in range(0, self._count, size)]

    def repeated(self, size: int) -> Given:
        """Return one batch of so many items, from those of the pool."""
        if self._one is not None:
            return np.resize(self._one, (size, *self._one.shape[1:]))
        return {
            name: np.resize(x, (size, *x.shape[1:])) if name in self._with_rows else x
            for name, x in self._arrays.items()
        }

    @property
    def _count(self) -> int:
        if self._one is not None:
            return len(self._one)
        return min((len(self._arrays[name]) for name in self._with_rows), default=1)

    def _part(self, start: int, end: int) -> Given:
        if self._one is not None:
            return self._one[start:end]
        return {
            name: x[start:end] if name in self._with_rows else x for name, x in self._arrays.items()
        }


class Stream:
    """A file whose outputs are fed back: each call goes on where the last one ended."""

    def __init__(self, infer: Infer, state: Sequence[Mapping[str, Any]]) -> None:
        """Begin with zeros.

        Args:
            infer: The file.
            state: Of each input that is fed: `input`, `output`, `shape` and `dtype`; sizes that
                are open are the batch.
        """
        self._infer, self._told = infer, state
        self._pairs = [(str(one["input"]), str(one["output"])) for one in state]
        self._size: int | None = None
        self._state: dict[str, Array] = {}

    def __call__(self, given: Given) -> Answer:
        assert isinstance(given, Mapping), "a file with a state is given arrays by name"
        size = max((len(x) for x in given.values() if np.ndim(x)), default=1)
        if size != self._size:
            self._begin(size)
        answer = self._infer({**given, **self._state})
        self._state = {name: answer[output] for name, output in self._pairs}
        return answer

    def _begin(self, size: int) -> None:
        self._size = size
        self._state = {
            one["input"]: np.zeros(
                [n if isinstance(n, int) else size for n in one["shape"]], one["dtype"]
            )
            for one in self._told
        }
