"""What every report format draws: all rows of a comparison, with their numbers and doubts."""

from __future__ import annotations

import pytest

from kdeploy.measurement import Measurement, write
from kdeploy.report.run import comparison, render

KINDS = ("report_format",)


@pytest.fixture
def compared(tmp_path):
    records = [
        Measurement(artifact=label, label=label, metric=metric, value=value * scale, **cell)
        for label, scale in [("teacher", 1.0), ("student", 0.5)]
        for metric, value, cell in [
            ("latency.p50", 0.0042, {"runtime": "onnxruntime_cpu", "batch_size": 1, "threads": 1}),
            ("accuracy.top1", 0.9, {"runtime": "onnxruntime_cpu"}),
            ("size", 123456, {}),
        ]
    ]
    reason = "tensorrt: there is no GPU here"
    records.append(
        Measurement(
            artifact="student",
            label="student",
            metric="latency.p50",
            value=None,
            runtime="tensorrt",
            batch_size=1,
            skipped=reason,
        )
    )
    write(records, tmp_path / "measurements.jsonl")
    return comparison([tmp_path])


def test_draws_every_row_and_says_what_was_skipped(technique, compared):
    text = render(compared, technique.name)
    for wanted in ("teacher", "student", "onnxruntime_cpu", "there is no GPU here"):
        assert wanted in text


def test_draws_the_same_twice(technique, compared):
    assert render(compared, technique.name) == render(compared, technique.name)


def test_has_a_suffix(technique):
    assert technique.facts["suffix"].startswith(".")
    assert len(technique.facts["suffix"]) > 1


def test_names_the_numbers_with_their_units(technique, compared):
    text = render(compared, technique.name)
    assert "4.2" in text or "0.0042" in text
    assert "ms" in text or ",s," in text
