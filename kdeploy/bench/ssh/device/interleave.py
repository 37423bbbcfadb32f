"""Measure the files of one group on the device: each in its own process, in turns, one awake.

The order of `kdeploy.bench.rounds`, which judges at home; here only what was seen is written down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.bench.client import Worker, WorkerFailed
from kdeploy.bench.energy import Meter
from kdeploy.bench.ssh.device.processor import look
from kdeploy.errors import Unavailable

CHILD = "kdeploy.bench.ssh.device.child"
Json = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


def measure_group(
    group: Mapping[str, Any], job: Mapping[str, Any], workdir: Path, note: Callable[[str], None]
) -> tuple[Json, Arrays]:
    """Return what was seen of each file, and its samples and predictions by number.

    Args:
        group: The files, and the conditions that they share.
        job: How long is measured, and what is predicted.
        place: The folder that holds the files.
        note: Called with a line for people at every step.
    """
    work = workdir / "work"
    with ExitStack() as stack:
        sessions = []
        for number, model in enumerate(group["subjects"]):
            note(f"{model['name']} warms up")
            folder = work / str(number)
            folder.mkdir(parents=True)
            worker = Worker(folder, timeout_seconds=job["timeout_seconds"], module=CHILD)
            session = DeviceSession(stack.enter_context(worker), folder)
            session.open(group, model, job, workdir)
            sessions.append(session)
        pids = [session.pid for session in sessions]
        before = look(pids)
        for turn in range(job["rounds"]):
            note(f"round {turn + 1} of {job['rounds']}")
            for session in sessions if turn % 2 == 0 else reversed(sessions):
                session.measure(job)
        after = look(pids)
        for session, model in zip(sessions, group["subjects"]):  # noqa: B905 - Python 3.9
            note(f"{model['name']}, memory and predictions")
            session.finish(group, job, workdir)
    arrays = {
        f"{name}-{n}": a for n, session in enumerate(sessions) for name, a in session.arrays.items()
    }
    return {"sides": [s.seen for s in sessions], "before": before, "after": after}, arrays


class DeviceSession:
    """One file in its process, and all that was seen of it until it failed or finished."""

    def __init__(self, worker: Worker, folder: Path) -> None:
        self._worker, self._folder = worker, folder
        self.pid = worker.pid
        self.seen: Json = {"failure": None, "missing": {}, "elapsed_seconds": []}
        self.arrays: Arrays = {}
        self._rounds: list[NDArray[Any]] = []

    def open(
        self,
        group: Mapping[str, Any],
        model: Mapping[str, Any],
        job: Mapping[str, Any],
        workdir: Path,
    ) -> None:
        """Open the file and warm it up."""
        opening = {
            "do": "open",
            "runtime": group["runtime"],
            "inputs": model["inputs"],
            "state": model["state"],
            "threads": group["threads"],
            "batch_size": group["batch_size"],
            "path": str(workdir / model["file"]),
            "pool": str(workdir / model["pool"]),
        }
        self.seen.update(self._ask(opening))
        self.seen["cold_start_seconds"] = self._worker.age_seconds
        limits = {key: job[key] for key in ("window_seconds", "limit_seconds")}
        self.seen.update(self._ask({"do": "warm_up", **limits}))

    def measure(self, job: Mapping[str, Any]) -> None:
        """Take one turn."""
        file = self._folder / "samples.npy"
        wanted = {"seconds": job["round_seconds"], "count": job["round_count"]}
        reply = self._ask({"do": "measure", **wanted, "file": str(file)})
        if reply:
            self._rounds.append(np.load(file))
            self.seen["elapsed_seconds"].append(reply["elapsed_seconds"])

    def finish(self, group: Mapping[str, Any], job: Mapping[str, Any], workdir: Path) -> None:
        """Ask for the rest, memory first: the proof and the predictions would raise it."""
        self.seen.update(self._ask({"do": "memory"}))
        if job["energy_seconds"]:
            self._look_at_energy(job["energy_seconds"])
        self._extra("integer_kernels", {"do": "proof", "folder": str(self._folder)})
        if group["with_accuracy"]:
            file, items = self._folder / "answers.npz", str(workdir / job["items"])
            asked = {"answers": job["answers"], "preprocessing": job["preprocessing"]}
            wanted = {"items": items, "file": str(file), **asked}
            if self._extra("accuracy.top1", {"do": "predict", **wanted}):
                with np.load(file) as answers:
                    self.arrays.update({name: answers[name] for name in answers.files})
        counts = [len(r) for r in self._rounds]
        if counts:
            self.arrays["nanoseconds"] = np.concatenate(self._rounds)
            self.arrays["counts"] = np.array(counts)
        self._worker.close()

    def _look_at_energy(self, seconds: float) -> None:
        """Count what the whole processor takes while this file alone runs."""
        try:
            meter = Meter("cpu")
            if self._extra("energy", {"do": "keep_busy", "seconds": seconds}):
                self.seen["joules"] = meter.joules()
        except Unavailable as error:
            self.seen["not_told"] = {"energy": error.message}

    def _ask(self, request: Json) -> Json:
        """Return the reply, empty after a failure."""
        if self.seen["failure"] is not None:
            return {}
        try:
            return self._worker.ask(request)
        except WorkerFailed as error:
            self.seen["failure"] = error.message
            self._worker.close()
            return {}

    def _extra(self, metric: str, request: Json) -> bool:
        """Ask for what may fail without taking the times with it."""
        if self.seen["failure"] is not None or self.seen["missing"]:
            return False
        try:
            self.seen.update(self._worker.ask(request))
        except WorkerFailed as error:
            self.seen["missing"][metric] = error.message
            return False
        return True
