"""Who shows a run in a terminal or a notebook: a line a stage, a progress bar a training."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from kdeploy.errors import shown
from kdeploy.progress.screen import Screen, line_of
from kdeploy.units import format_seconds

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.status import Status

    from kdeploy.pipeline.log import StageRecord
    from kdeploy.training.fit import EpochRecord


class Terminal:
    """The audience of the command line: a line a stage, a progress bar a training."""

    def __init__(self) -> None:
        self.screen = Screen(stderr=True)
        self.callback = TrainingBar(self.screen)
        self.spinner: Status | None = None
        self.current = ""
        atexit.register(self._quiet)  # an error leaves a stage: the cursor comes back

    def stage_started(self, stage: str, technique: str, label: str) -> None:
        self.current = f"{stage:<8} {technique:<15} {label}"

    def stage_ended(self, record: StageRecord) -> None:
        self._quiet()
        how = "stored" if record.cached else format_seconds(record.wall_time_s)
        self.screen.print(("✓", "green"), f" {self.current:<42} {record.artifact}  {how}")

    def message(self, text: str) -> None:
        """Print a result."""
        self._quiet()
        self.screen.print(f"  {text}")

    def status(self, text: str) -> None:
        """Show what is being done; outside a terminal `log.jsonl` keeps it."""
        if not self.screen.is_terminal:
            return
        if self.spinner is None:
            self.spinner = self.screen.status(text)
            self.spinner.start()
        self.spinner.update(line_of(f"{self.current}  ", (text, "dim")))

    def _quiet(self) -> None:
        if self.spinner is not None:
            self.spinner.stop()
            self.spinner = None


class TrainingBar:
    """Shows a training: epoch, loss, validation accuracy, throughput, time left."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.progress: Progress | None = None
        self.task: TaskID | None = None
        self.name = ""

    def started(self, name: str, epochs: int, steps: int, done_epochs: int) -> None:
        self.name = name
        if done_epochs:
            self.screen.print(f"  {name}: going on after epoch {done_epochs} of {epochs}")
        if self.screen.is_terminal:
            self.progress = _bar(self.screen)
            self.progress.start()
            self.task = self.progress.add_task(
                _name(name), total=epochs * steps, completed=done_epochs * steps, facts=""
            )

    def prepared(self, done: int, items: int) -> None:
        is_done = done >= items
        self._show([] if is_done else [f"the teacher answers: {done / items:.0%}"])

    def stepped(self, images: int) -> None:
        del images  # the bar counts steps
        if self.progress is not None and self.task is not None:
            self.progress.advance(self.task)

    def epoch_ended(self, record: EpochRecord) -> None:
        epoch, loss = f"epoch {record.epoch}/{record.epochs}", f"loss {record.loss:.4f}"
        known = record.validation_accuracy  # not a number for items without labels
        accuracy = [f"validation {known * 100:.2f} %"] if isfinite(known) else []
        facts = [epoch, loss, *accuracy, f"{record.images_per_second:,.0f} items/s"]
        if self.progress is not None:
            self._show(facts)
        elif record.epoch == record.epochs or record.epoch % max(1, record.epochs // 5) == 0:
            self.screen.print(f"  {self.name}: {'  '.join(facts)}")

    def ended(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def _show(self, facts: Sequence[str]) -> None:
        """Show as many facts, the first ones first, as stand beside name, bar and time left."""
        if self.progress is None or self.task is None:
            return
        room = self.screen.width - len(_name(self.name)) - _bar_width(self.screen) - BESIDE
        kept = list(facts)
        while kept and len("  ".join(kept)) > room:
            kept.pop()
        self.progress.update(self.task, facts="  ".join(kept))


LONGEST_NAME = 20
TIME_LEFT = 7  # characters of 1:23:45
BESIDE = 2 + TIME_LEFT + 3  # and the indent, and a space between the columns


def _name(name: str) -> str:
    name = " ".join(shown(name).split())
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _bar_width(screen: Screen) -> int:
    return 20 if screen.width >= 100 else 10


def _bar(screen: Screen) -> Progress:
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    width = _bar_width(screen)
    return screen.progress(
        TextColumn("  {task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=width, table_column=Column(min_width=width)),
        TextColumn("{task.fields[facts]}", markup=False, table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=TIME_LEFT)),
    )
