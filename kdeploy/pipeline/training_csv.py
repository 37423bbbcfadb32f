"""Write the epochs of all trainings as one table, `training.csv`, when asked."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from kdeploy.pipeline.rundir import write_text
from kdeploy.training.fit import EpochRecord, TrainingCallback
from kdeploy.untrusted.csv_cell import csv_cell

BEFORE = ("training", "epoch", "loss")
AFTER = ("validation_accuracy", "images_per_second", "seconds", "learning_rate")


class TrainingCsv:
    """A callback that keeps a row an epoch in a file and passes all on to another callback.

    The file is replaced with every epoch: trainings differ in their loss components, a column
    each, and an epoch that is trained again after an interruption stands there once.
    """

    def __init__(self, path: Path, callback: TrainingCallback) -> None:
        self.path = path
        self.callback = callback
        self.name = ""
        self.rows = _rows(path)

    def started(self, name: str, epochs: int, steps: int, done_epochs: int) -> None:
        self.name = csv_cell(name)
        self.rows = [
            row
            for row in self.rows
            if row["training"] != self.name or int(row["epoch"]) <= done_epochs
        ]
        self.callback.started(name, epochs, steps, done_epochs)

    def prepared(self, done: int, items: int) -> None:
        self.callback.prepared(done, items)

    def stepped(self, images: int) -> None:
        self.callback.stepped(images)

    def epoch_ended(self, record: EpochRecord) -> None:
        row = {"training": self.name, "epoch": record.epoch, "loss": record.loss}
        row |= {f"loss.{name}": value for name, value in record.losses.items()}
        self.rows.append(row | {name: getattr(record, name) for name in AFTER})
        write_text(self.path, self._text())
        self.callback.epoch_ended(record)

    def ended(self) -> None:
        self.callback.ended()

    def _text(self) -> str:
        components = dict.fromkeys(k for row in self.rows for k in row if k.startswith("loss."))
        text = io.StringIO()
        table = csv.DictWriter(text, [*BEFORE, *components, *AFTER], lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        return text.getvalue()


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return what an earlier run wrote; a component that a training lacks is left out again."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
