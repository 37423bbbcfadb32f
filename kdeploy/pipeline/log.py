"""What happened in a run: `log.jsonl`, a line an event, kept over interruptions."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from kdeploy.system.interruption import stop_if_asked
from kdeploy.training.fit import EpochRecord, NullCallback, TrainingCallback


class RunListener(Protocol):
    """Who is told what a run does; the command line shows it, a test may listen."""

    def stage_started(self, stage: str, technique: str, label: str) -> None: ...

    def stage_ended(self, record: StageRecord) -> None: ...

    def message(self, text: str) -> None:
        """Hear a result that stays to be read."""
        ...

    def status(self, text: str) -> None:
        """Hear what is being done just now."""
        ...

    @property
    def callback(self) -> TrainingCallback: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """One step of a run, as `summary.json` lists it."""

    stage: str
    technique: str
    artifact: str
    wall_time_s: float
    cached: bool
    label: str


class NullListener:
    """What hears nothing: for use as a library."""

    callback: TrainingCallback = NullCallback()

    def stage_started(self, stage: str, technique: str, label: str) -> None: ...

    def stage_ended(self, record: StageRecord) -> None: ...

    def message(self, text: str) -> None: ...

    def status(self, text: str) -> None: ...


class Log:
    """A listener that writes every event to a file and passes it on."""

    def __init__(self, path: Path, listener: RunListener) -> None:
        self.path = path
        self.listener = listener
        self.callback: TrainingCallback = _LoggedTraining(self, listener.callback)

    def stage_started(self, stage: str, technique: str, label: str) -> None:
        stop_if_asked()
        self.write("stage_started", stage=stage, technique=technique, label=label)
        self.listener.stage_started(stage, technique, label)

    def stage_ended(self, record: StageRecord) -> None:
        self.write("stage_ended", **asdict(record))
        self.listener.stage_ended(record)

    def message(self, text: str) -> None:
        self.write("said", text=text)
        self.listener.message(text)

    def status(self, text: str) -> None:
        self.write("note", text=text)
        self.listener.status(text)

    def write(self, event: str, **facts: Any) -> None:
        """Append one event; a line cut off by a kill does not spoil the next."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self.path.open("a") as file:
            file.write(json.dumps({"time": now, "event": event, **facts}, default=str) + "\n")


@contextlib.contextmanager
def noted(listener: RunListener) -> Iterator[None]:
    """Pass on what the layers below, which know no listener, log: progress as notes, and warnings.

    A warning stays to be read, so it is in `log.jsonl` too.
    """
    progress, all_layers = logging.getLogger("kdeploy.progress"), logging.getLogger("kdeploy")
    noting, saying = _Telling(listener.status), _Telling(listener.message, level=logging.WARNING)
    progress.addHandler(noting)
    progress.setLevel(logging.INFO)
    all_layers.addHandler(saying)
    try:
        yield
    finally:
        progress.removeHandler(noting)
        all_layers.removeHandler(saying)


class _Telling(logging.Handler):
    def __init__(self, tell: Callable[[str], None], level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(record.getMessage())


class _LoggedTraining:
    """Writes the epochs of a training to the log and passes all on."""

    def __init__(self, log: Log, callback: TrainingCallback) -> None:
        self.log = log
        self.callback = callback
        self.name = ""

    def started(self, name: str, epochs: int, steps: int, done_epochs: int) -> None:
        self.name = name
        self.log.write("training_started", name=name, epochs=epochs, done_epochs=done_epochs)
        self.callback.started(name, epochs, steps, done_epochs)

    def prepared(self, done: int, items: int) -> None:
        self.callback.prepared(done, items)

    def stepped(self, images: int) -> None:
        self.callback.stepped(images)

    def epoch_ended(self, record: EpochRecord) -> None:
        self.log.write("epoch", name=self.name, **asdict(record))
        self.callback.epoch_ended(record)

    def ended(self) -> None:
        self.callback.ended()
