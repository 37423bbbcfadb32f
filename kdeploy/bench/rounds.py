"""Measure several files side by side: each in its own process, in rounds that alternate.

Whatever disturbs the machine for a while disturbs all of them alike, so ratios of one round can be
trusted where times cannot. The order is turned around every round (A B B A B A A B), and a process
is left alone only when its threads have stopped spinning: they would slow down the next one.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kdeploy.bench import doubts
from kdeploy.bench.client import Worker, WorkerFailed
from kdeploy.bench.inputs import write_pool
from kdeploy.bench.subject import Cell, Outcome, Plan, Seconds, Subject
from kdeploy.bench.surroundings import doubts_between, look
from kdeploy.errors import KdeployError
from kdeploy.runtimes.contract import Proof

Watch = Callable[[str], None]


def measure_group(
    subjects: Sequence[Subject], cell: Cell, plan: Plan, *, with_accuracy: bool, watch: Watch
) -> list[Outcome]:
    """Return one outcome a subject; what fails carries its reason and stops nothing else."""
    with tempfile.TemporaryDirectory(prefix="kdeploy-bench-") as folder, ExitStack() as stack:
        sides = []
        for index, subject in enumerate(subjects):
            watch(f"{cell}: {subject.name} warms up")
            place = Path(folder) / str(index)
            sides.append(stack.enter_context(opened(subject, cell, plan, place)))
        flags = _alternate(sides, plan, lambda text: watch(f"{cell}: {text}"))
        for side in sides:
            watch(f"{cell}: {side.subject.name}, memory and accuracy")
            side.finish(with_accuracy=with_accuracy)
        return [side.outcome(flags) for side in sides]


@contextmanager
def opened(subject: Subject, cell: Cell, plan: Plan, folder: Path) -> Iterator[Side]:
    """Start a process, open the file in it and warm it up; end it afterwards."""
    folder.mkdir()
    with Worker(folder, timeout_seconds=plan.timeout_seconds) as worker:
        side = Side(subject, cell, plan, folder, worker)
        side.open()
        yield side


class Side:
    """One subject in its process, and all that was seen of it until it failed or finished."""

    def __init__(
        self, subject: Subject, cell: Cell, plan: Plan, folder: Path, worker: Worker
    ) -> None:
        self.subject, self._cell, self._plan = subject, cell, plan
        self._folder, self._worker = folder, worker
        self.failure: str | None = None
        self._is_steady = True
        self._flags: list[str] = []
        self._rounds: list[Seconds] = []
        self._seen: dict[str, Any] = {}
        self._missing: dict[str, str] = {}

    @property
    def pid(self) -> int:
        return self._worker.pid

    def open(self) -> None:
        plan, pool = self._plan, self._folder / "pool.npy"
        try:
            is_real = write_pool(
                self.subject, plan.data, batch_size=self._cell.batch_size, file=pool
            )
        except KdeployError as error:
            self.failure = f"{type(error).__name__}: {error.message}"
            return
        self._flags += [] if is_real else ["random_inputs"]
        reply = self._ask(
            {
                "do": "open",
                "runtime": self._cell.runtime,
                "threads": self._cell.threads,
                "path": str(self.subject.path),
                "pool": str(pool),
                "batch_size": self._cell.batch_size,
            }
        )
        self._seen.update(reply)
        reply = self._ask(
            {
                "do": "warm_up",
                "window_seconds": plan.window_seconds,
                "limit_seconds": plan.warm_up_limit_seconds,
            }
        )
        self._is_steady = bool(reply.get("is_steady", True))

    def measure(self) -> None:
        file, plan = self._folder / "samples.npy", self._plan
        reply = self._ask(
            {
                "do": "measure",
                "seconds": plan.minimum_seconds / plan.rounds,
                "count": math.ceil(plan.minimum_count / plan.rounds),
                "file": str(file),
            }
        )
        if reply:
            self._rounds.append(np.load(file) * 1e-9)
            self._seen.setdefault("elapsed_seconds", []).append(reply["elapsed_seconds"])

    def finish(self, *, with_accuracy: bool) -> None:
        """Ask for the rest, memory first: reading the proof and the data would raise it."""
        self._seen.update(self._ask({"do": "memory"}))
        self._extra("integer_kernels", {"do": "proof"})
        if with_accuracy and self._plan.data is not None:
            file = self._folder / "predictions.npy"
            data = self._plan.data.to_dict()
            self._extra("accuracy.top1", {"do": "accuracy", "data": data, "file": str(file)})
            if "metrics" in self._seen:
                self._seen["predictions"] = np.load(file)
        self._worker.close()

    def outcome(self, flags: Sequence[str]) -> Outcome:
        if self.failure is not None:
            return Outcome(subject=self.subject, cell=self._cell, skipped=self.failure)
        seen = self._seen
        if seen["swapped_bytes"]:
            self._flags.append("swapped")
        return Outcome(
            subject=self.subject,
            cell=self._cell,
            load_seconds=seen["load_seconds"],
            first_seconds=seen["first_seconds"],
            rounds=tuple(self._rounds),
            elapsed_seconds=tuple(seen["elapsed_seconds"]),
            peak_memory_bytes=seen["peak_bytes"],
            proof=Proof(**seen["proof"]) if "proof" in seen else None,
            accuracy=seen.get("metrics", {}),
            predictions=seen.get("predictions"),
            missing=self._missing,
            flags=(
                *self._flags,
                *flags,
                *doubts.of_samples(self._rounds, is_steady=self._is_steady),
            ),
        )

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the reply, empty after a failure."""
        if self.failure is not None:
            return {}
        try:
            return self._worker.ask(request)
        except WorkerFailed as error:
            self.failure = error.message
            self._worker.close()
            return {}

    def _extra(self, metric: str, request: dict[str, Any]) -> None:
        """Ask for what may fail without taking the times with it."""
        if self.failure is not None or self._missing:
            return
        try:
            self._seen.update(self._worker.ask(request))
        except WorkerFailed as error:
            self._missing[metric] = error.message


def _alternate(sides: Sequence[Side], plan: Plan, watch: Watch) -> tuple[str, ...]:
    """Let every side take its turn in every round; return what else the machine did meanwhile."""
    before = look([side.pid for side in sides])
    for number in range(plan.rounds):
        watch(f"round {number + 1} of {plan.rounds}")
        for index in turns(len(sides), number):
            sides[index].measure()
    return doubts_between(before, look([side.pid for side in sides]))


def turns(count: int, number: int) -> list[int]:
    """Return who measures after whom in a round: each round in pairs is the last one turned around.

    Every pair begins with another, so that each is as often first, and as often twice in a row.
    """
    first = number // 2 % count
    order = [*range(first, count), *range(first)]
    return order if number % 2 == 0 else order[::-1]
