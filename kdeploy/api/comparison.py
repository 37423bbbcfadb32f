"""What measuring came to, as people look at it: a table, a frame, a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdeploy.gate import Verdict
from kdeploy.measurement import Measurement
from kdeploy.report import comparison as drawing
from kdeploy.report.run import format_of, render
from kdeploy.report.table import brief_rows, skipped_rows

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Files side by side; a notebook shows the table."""

    drawn: drawing.Comparison
    records: Sequence[Measurement] = ()
    ratios: Sequence[dict[str, Any]] = ()
    """Each file against the baseline: metric, ratio, low, high, verdict."""
    verdicts: Sequence[Verdict] = ()

    @cached_property
    def frame(self) -> DataFrame:
        """All measurements, a record a row, as in `measurements.jsonl`."""
        from pandas import DataFrame

        return DataFrame([record.to_dict() for record in self.records])

    @property
    def table(self) -> DataFrame:
        """Return the short table, as the command line shows it."""
        from pandas import DataFrame

        columns, rows = brief_rows(self.drawn)
        return DataFrame(rows, columns=columns)

    @property
    def passed(self) -> bool:
        """Return whether all gates held."""
        return all(verdict.passed for verdict in self.verdicts)

    def report(self, path: str | Path) -> Path:
        """Write the whole comparison; the format is that of the file's name."""
        file = Path(path)
        text = render(self.drawn, format_of(file))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def __str__(self) -> str:
        skipped = (f"skipped: {x[0]} on {x[1]}: {x[3]}" for x in skipped_rows(self.drawn))
        return "\n".join([self.table.to_string(index=False), *skipped])

    def _repr_html_(self) -> str:
        shown: str = self.table.to_html(index=False)
        return shown
