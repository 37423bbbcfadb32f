"""The csv: every record, every field, not a digit lost."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict

from kdeploy.measurement import Measurement, read
from kdeploy.report.run import comparison, render


def test_says_the_same_as_the_records(demo):
    lines = list(csv.DictReader(io.StringIO(render(comparison([demo]), "csv"))))
    records = [asdict(record) for record in read(demo)]
    assert list(lines[0]) == list(Measurement.__dataclass_fields__)
    expected = [
        {k: " ".join(v) if isinstance(v, tuple) else "" if v is None else str(v) for k, v in r}
        for r in (record.items() for record in records)
    ]
    assert lines == expected


def test_keeps_every_digit_and_any_text(records_of, write_run):
    value = 0.1 + 0.2
    records = records_of('a, "b"\nc', p50=value, flags=("unstable", "outliers"))
    lines = csv.DictReader(io.StringIO(render(comparison([write_run(records)]), "csv")))
    found = {line["metric"]: line for line in lines}
    assert float(found["latency.p50"]["value"]) == value
    assert found["latency.p50"]["label"] == 'a, "b"\nc'
    assert found["latency.p50"]["flags"] == "unstable outliers"
