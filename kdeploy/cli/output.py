"""What people see: tables on stdout, progress and notes on stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from kdeploy.units import format_seconds

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.status import Status

    from kdeploy.gate import Verdict
    from kdeploy.pipeline.log import StageRecord
    from kdeploy.report.comparison import Comparison
    from kdeploy.training import EpochRecord

NUMBERS = frozenset("0123456789-+<>≤")
# Not in the terminal's table either: that most machines have no counter of energy, and that a short
# run has no p99, stands in the report.
REPORTED_ONLY = frozenset({"energy", "latency.p99"})


def out(*, is_json: bool) -> Console:
    """Return the console for answers: stdout, or stderr where stdout belongs to JSON."""
    return Console(stderr=is_json, highlight=False, soft_wrap=True, width=_width())


def _width() -> int | None:
    """Return the terminal's own width; in a file or a pipe lines may be as long as they are."""
    return None if sys.stdout.isatty() else 160


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    """Return a table; columns that begin like numbers stand to the right."""
    drawn = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for index, header in enumerate(headers):
        cells = [row[index] for row in rows if row[index]]
        is_number = bool(cells) and all(cell[0] in NUMBERS for cell in cells)
        drawn.add_column(header, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def show_comparison(
    screen: Console, comparison: Comparison, verdicts: Sequence[Verdict] = ()
) -> None:
    """Print the comparison with the baseline, and the gates."""
    from kdeploy.report.table import brief_rows, skipped_rows

    screen.print()
    screen.print(table(*brief_rows(comparison)))
    for label, place, what, reason in skipped_rows(comparison):
        if what in REPORTED_ONLY:
            continue
        screen.print(f"skipped: {label} on {place}: {reason}", markup=False)
    if verdicts:
        rows = [[v.gate, v.label, "pass" if v.passed else "FAIL", v.reason] for v in verdicts]
        screen.print()
        screen.print(table(["gate", "", "", ""], rows))


def show_decisions(screen: Console, comparison: Comparison) -> None:
    """Print what changed against another version, and the gates that were asked for."""
    from kdeploy.report.decisions import MOST_GATES, change_sentence, gate_rows

    if comparison.against:
        screen.print(change_sentence(comparison.against), markup=False)
    judged = gate_rows(comparison)
    rows = [[gate, "pass" if ok else "FAIL", *texts] for ok, gate, *texts in judged[:MOST_GATES]]
    if rows:
        screen.print(table(["gate", "", "where", "measured"], rows))


def show_summary(
    comparison: Comparison, verdicts: Sequence[Verdict] = (), *, is_json: bool
) -> None:
    """Hand the markdown for CI to GitHub Actions, or print it where that is not running."""
    from kdeploy.report.summary import github_summary, write_summary

    text = github_summary(comparison, verdicts)
    path = write_summary(text)
    screen = out(is_json=is_json)
    screen.print(text if path is None else f"appended to {path}", markup=False, emoji=False)


def show_checks(screen: Console, checks: Sequence[Mapping[str, Any]]) -> None:
    """Print what verifying a bundle found."""
    rows = [
        [str(c["check"]), "pass" if c["passed"] else "FAIL", str(c.get("reason") or "")]
        for c in checks
    ]
    screen.print(table(["check", "", ""], rows))


class Terminal:
    """The audience of the command line: a line a stage, a progress bar a training."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.watcher = TrainingBar(self.console)
        self.status: Status | None = None
        self.current = ""

    def stage_started(self, stage: str, technique: str, label: str) -> None:
        self.current = f"{stage:<8} {technique:<15} {label}"

    def stage_ended(self, record: StageRecord) -> None:
        self._quiet()
        how = "stored" if record.cached else format_seconds(record.wall_time_s)
        self.console.print(f"[green]✓[/green] {self.current:<42} {record.artifact}  {how}")

    def said(self, text: str) -> None:
        """Print a result."""
        self._quiet()
        self.console.print(f"  {text}", markup=False)

    def note(self, text: str) -> None:
        """Show what is being done; outside a terminal `log.jsonl` keeps it."""
        if not self.console.is_terminal:
            return
        if self.status is None:
            self.status = self.console.status(text)
            self.status.start()
        self.status.update(f"{self.current}  [dim]{text}[/dim]")

    def _quiet(self) -> None:
        if self.status is not None:
            self.status.stop()
            self.status = None


class TrainingBar:
    """Shows a training: epoch, loss, validation accuracy, throughput, time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress: Progress | None = None
        self.task: TaskID | None = None
        self.name = ""

    def started(self, name: str, epochs: int, steps: int, done_epochs: int) -> None:
        self.name = name
        if done_epochs:
            self.console.print(f"  {name}: going on after epoch {done_epochs} of {epochs}")
        if self.console.is_terminal:
            self.progress = _bar(self.console)
            self.progress.start()
            self.task = self.progress.add_task(
                name, total=epochs * steps, completed=done_epochs * steps, facts=""
            )

    def prepared(self, done: int, items: int) -> None:
        if self.progress is not None and self.task is not None:
            facts = f"the teacher answers on a new view: {done / items:.0%}" if done < items else ""
            self.progress.update(self.task, facts=facts)

    def stepped(self, images: int) -> None:
        del images  # the bar counts steps
        if self.progress is not None and self.task is not None:
            self.progress.advance(self.task)

    def epoch_ended(self, record: EpochRecord) -> None:
        facts = (
            f"epoch {record.epoch}/{record.epochs}  loss {record.loss:.4f}"
            f"  validation {record.validation_accuracy * 100:.2f} %"
            f"  {record.images_per_second:,.0f} items/s"
        )
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, facts=facts)
        elif record.epoch == record.epochs or record.epoch % max(1, record.epochs // 5) == 0:
            self.console.print(f"  {self.name}: {facts}")

    def ended(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


def _bar(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [
        TextColumn("  {task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
    ]
    return Progress(*columns, console=console, transient=not sys.stderr.isatty())
