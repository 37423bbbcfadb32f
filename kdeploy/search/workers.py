"""Processes that candidates are made in: each stays until it ends or is not needed any more.

What ends a process, memory that ran out or a crash of a library, costs that candidate alone: it is
tried once more in a fresh one, and then failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kdeploy.bench.client import Worker, WorkerFailed
from kdeploy.system.temporary import temporary_folder

MODULE = "kdeploy.search.worker"
LONGEST_SECONDS = 7 * 24 * 3600.0  # a training may take as long as it likes
ATTEMPTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a request."""

    reply: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


class Workers(Protocol):
    """Who does what is asked; `kdeploy.search.evaluation` knows nothing of where."""

    def ask_all(self, requests: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Return the answers in the order of the requests, which go on side by side."""
        ...

    def ask_alone(self, request: Mapping[str, Any]) -> Answer:
        """Return the answer to what must have its machine for itself."""
        ...


@contextmanager
def local_workers(count: int) -> Iterator[Workers]:
    """Start processes on this machine; they end with this one, however it ends."""
    with temporary_folder("search") as folder:
        slots = [_Slot(folder / str(index)) for index in range(count)]
        try:
            yield _Local(slots)
        finally:
            for slot in slots:
                slot.close()


class _Local:
    def __init__(self, slots: Sequence[_Slot]) -> None:
        self._slots = slots

    def ask_all(self, requests: Sequence[Mapping[str, Any]]) -> list[Answer]:
        if len(requests) <= 1 or len(self._slots) == 1:
            return [self._slots[0].ask(request) for request in requests]
        for slot in self._slots[: len(requests)]:
            slot.start()  # by this thread: a child ends with the thread that started it
        answers: list[Answer] = [Answer()] * len(requests)
        waiting = list(enumerate(requests))

        def work(slot: _Slot) -> None:
            while waiting:
                try:
                    place, request = waiting.pop(0)
                except IndexError:
                    return
                answers[place] = slot.ask(request, may_restart=False)

        with ThreadPoolExecutor(len(self._slots)) as pool:
            list(pool.map(work, self._slots))
        dead = [i for i, answer in enumerate(answers) if answer.error == _DIED]
        for place in dead:
            answers[place] = self._slots[0].ask(requests[place])
        return answers

    def ask_alone(self, request: Mapping[str, Any]) -> Answer:
        return self._slots[0].ask(request)


_DIED = "its process ended"


class _Slot:
    """A place for one process at a time."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._worker: Worker | None = None

    def start(self) -> Worker:
        if self._worker is None or not self._worker.is_alive:
            self.close()
            worker = Worker(self._folder, timeout_seconds=LONGEST_SECONDS, module=MODULE)
            self._worker = worker.__enter__()
        return self._worker

    def ask(self, request: Mapping[str, Any], *, may_restart: bool = True) -> Answer:
        said = _DIED
        for _ in range(ATTEMPTS if may_restart else 1):
            if not may_restart and (self._worker is None or not self._worker.is_alive):
                return Answer(error=_DIED)
            worker = self.start()
            try:
                return Answer(reply=worker.ask(request))
            except WorkerFailed as error:
                if worker.is_alive:
                    return Answer(error=error.message)
                said = error.message if may_restart else _DIED
        return Answer(error=said)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.__exit__(None, None, None)
            self._worker = None
