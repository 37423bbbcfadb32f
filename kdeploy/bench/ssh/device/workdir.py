"""The job's folder on the device: who holds the device, whether anybody still cares, what is done.

    <temporary>/kdeploy-device-<uid>/running   locked by the process that measures; says which job
    <temporary>/kdeploy-device-<uid>/<job>/    kdeploy.zip, files, job.json, results/<key>.npz, ...

A job lives on a lease, which whoever follows it renews: without one it ends and removes itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LEASE_SECONDS = 900.0  # without a sign of whoever asked, a job stops and is swept
START_SECONDS = 5.0  # for a process to end, or to give back a lock


class Workdir:
    """One job's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results"
        self._lock = folder.parent / "running"

    @property
    def name(self) -> str:
        return self.folder.name

    def renew(self) -> None:
        """Say that somebody waits for this job."""
        (self.folder / "lease").touch()

    def is_wanted(self) -> bool:
        age = _lease_age(self.folder)
        return age is not None and age < LEASE_SECONDS

    def finished(self) -> list[str]:
        """Return the keys of all results."""
        return sorted(path.stem for path in self.results.glob("*.npz"))

    def note(self, text: str) -> None:
        """Say what is being done."""
        self._replace("note", text)

    def last_note(self) -> str:
        return _text(self.folder / "note")

    def end(self, failure: str | None) -> None:
        """Say that the job is over, and why if it failed."""
        self._replace("ended.json", json.dumps({"failure": failure}))

    def ended(self) -> dict[str, Any] | None:
        """Return how the job ended, None as long as it has not."""
        text = _text(self.folder / "ended.json")
        found: dict[str, Any] | None = json.loads(text) if text else None
        return found

    def begin(self) -> None:
        """Forget how an earlier start of the same job ended."""
        self.results.mkdir(exist_ok=True)
        for name in ("note", "ended.json"):
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).unlink()

    @contextlib.contextmanager
    def holding_the_device(self) -> Iterator[None]:
        """Be the only one that measures here.

        Raises:
            BlockingIOError: another job does.
        """
        # Opened for appending: what the holder wrote stays until the lock is had.
        with self._lock.open("a+") as file:
            self._acquire(file)
            file.truncate(0)
            file.write(json.dumps({"job": self.name, "pid": os.getpid()}))
            file.flush()
            yield

    def holder(self) -> dict[str, Any] | None:
        """Return the job and the process that measures on this device now, None without one."""
        if not self._lock.exists():
            return None
        with self._lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read()
                return json.loads(text) if text else {"job": "", "pid": 0}
        return None

    def is_running(self) -> bool:
        holder = self.holder()
        return holder is not None and holder["job"] == self.name

    def sweep(self) -> None:
        """Remove what jobs left that nobody waits for any more."""
        holder = self.holder()
        running = holder["job"] if holder else None
        for folder in self.folder.parent.iterdir():
            age = _lease_age(folder)
            if age is not None and age >= LEASE_SECONDS and folder.name != running:
                shutil.rmtree(folder, ignore_errors=True)

    def stop(self) -> None:
        """End the process that measures this job, and its workers."""
        holder = self.holder()
        if holder is None or holder["job"] != self.name or not holder["pid"]:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(holder["pid"], signal.SIGKILL)  # its session is its own
        deadline = time.monotonic() + START_SECONDS
        while self.is_running() and time.monotonic() < deadline:
            time.sleep(0.02)

    def remove(self) -> None:
        """Remove the folder, and the one around it when it was the last."""
        shutil.rmtree(self.folder, ignore_errors=True)
        root = self.folder.parent
        if self.holder() is None and [path.name for path in root.iterdir()] in (["running"], []):
            shutil.rmtree(root, ignore_errors=True)

    def _acquire(self, file: Any) -> None:
        """Lock; whoever only looks whether it is locked holds it for a moment too."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _replace(self, name: str, text: str) -> None:
        partial = self.folder / f"{name}.partial"
        partial.write_text(text)
        partial.replace(self.folder / name)


def _lease_age(folder: Path) -> float | None:
    """Return the seconds since somebody cared, None for what has no lease or is gone."""
    try:
        return time.time() - (folder / "lease").stat().st_mtime
    except OSError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
