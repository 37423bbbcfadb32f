"""Comma-separated values: every record of every run, flat and unrounded."""

from __future__ import annotations

import csv as writer
import io
from dataclasses import fields
from typing import Any

from kdeploy.measurement import Measurement
from kdeploy.report.comparison import Comparison
from kdeploy.report.contract import report_format
from kdeploy.untrusted.csv_cell import csv_cell


@report_format(suffix=".csv")
def csv(comparison: Comparison) -> str:
    """Return one line a record, the columns of a record; flags are joined by blanks.

    A text that begins like a formula has an apostrophe before it, as spreadsheets run those.
    """
    columns = [field.name for field in fields(Measurement)]
    text = io.StringIO()
    lines = writer.writer(text, lineterminator="\n")
    lines.writerow(columns)
    for record in comparison.records:
        lines.writerow([_plain(getattr(record, column)) for column in columns])
    return text.getvalue()


def _plain(value: Any) -> Any:
    return csv_cell(" ".join(value) if isinstance(value, tuple) else value)
