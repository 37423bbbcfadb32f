"""The trials of a search, a line each in `trials.jsonl`: the truth, from which all else is rebuilt.

A trial is written once, when all is known of it, and flushed to disk. A kill may cut the last line
off: it is removed on opening, and that trial is made again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from kdeploy.errors import DataError, Unavailable
from kdeploy.untrusted.json_document import json_text

State: TypeAlias = Literal["complete", "rejected", "stopped", "failed"]
STATES: Mapping[State, str] = {
    "complete": "trained to the end and measured",
    "rejected": "misses a gate that is known before training",
    "stopped": "others were better after a short training",
    "failed": "could not be made",
}
TRIALS = "trials.jsonl"
LONGEST_LINE = 2**22  # bytes; a trial is a few KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One candidate and what became of it."""

    number: int
    state: State
    parameters: dict[str, Any]
    values: dict[str, float] = field(default_factory=dict)
    """By metric; what is judged, on the validation part."""
    reason: str = ""
    """Why it ended where it did, in a sentence."""
    gates: dict[str, float] = field(default_factory=dict)
    """By gate, how far it is missed, as a share of its bound; 0 or less where it holds."""
    untrained: dict[str, float] = field(default_factory=dict)
    """What was measured of the network before any training."""
    short: float | None = None
    """The validation metric after the short training."""
    seconds: float = 0.0
    saved_seconds: float = 0.0
    """What steps would have taken that were found in the store."""
    steps: dict[str, float] = field(default_factory=dict)
    """Seconds by artefact of the steps that were made for it."""
    timed: list[list[float]] = field(default_factory=list)
    """When it had the machine for itself, in seconds since the epoch."""

    @property
    def is_feasible(self) -> bool:
        return self.state == "complete" and all(v <= 0 for v in self.gates.values())


@dataclass(slots=True, kw_only=True)
class TrialLog:
    """The file of trials; one process writes it."""

    path: Path
    trials: list[Trial]

    def append(self, trial: Trial) -> None:
        """Write a trial, flushed to disk."""
        line = json.dumps(asdict(trial)) + "\n"
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self.trials.append(trial)


@contextmanager
def trial_log(folder: Path) -> Iterator[TrialLog]:
    """Hold the trials of a folder, for writing.

    Raises:
        Unavailable: another process searches in this folder.
        DataError: a line that was not cut off is no trial.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / TRIALS
    lock = FileLock(folder / ".search.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise Unavailable(
            f"another process is searching in {folder}",
            hint="wait for it, or name another `--out`",
        ) from None
    try:
        _cut_torn_line(path)
        yield TrialLog(path=path, trials=read_trials(path))
    finally:
        lock.release()


def read_trials(path: Path) -> list[Trial]:
    """Return the trials of a file, or of the one in a folder; none where there is no file."""
    file = path / TRIALS if path.is_dir() else path
    if not file.is_file():
        return []
    found: list[Trial] = []
    with file.open("rb") as lines:
        for line in iter(lambda: lines.readline(LONGEST_LINE), b""):
            if line.endswith(b"\n"):
                found.append(_trial(line, file, len(found)))
    return found


def _cut_torn_line(path: Path) -> None:
    if not path.is_file():
        return
    whole = path.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    if kept != whole:
        with path.open("r+b") as file:
            file.truncate(len(kept))
            os.fsync(file.fileno())


def _trial(line: bytes, file: Path, number: int) -> Trial:
    try:
        fields = json_text(line.decode())
        known = {k: v for k, v in fields.items() if k in Trial.__dataclass_fields__}
        trial = Trial(**known)
        if trial.number != number or trial.state not in STATES:
            raise ValueError(f"number {trial.number}, state {trial.state}")
        numbers = [*trial.values.values(), *trial.gates.values(), *trial.steps.values()]
        if not all(isinstance(value, int | float) for value in numbers):
            raise ValueError("a value is no number")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{file}, line {number + 1} is not trial {number}: {error}",
            hint="was it edited? Remove the lines from there on: these trials are made again",
        ) from None
    return trial
