"""The table of the gallery, of records that a run left."""

from __future__ import annotations

import sys

from benchmarks.suites import gallery
from kdeploy.measurement import Measurement, write
from kdeploy.runtimes.run import this_machine


def test_each_subject_has_its_recipes():
    for name, subject in gallery.SUBJECTS.items():
        for recipe in subject.recipes:
            assert (gallery.MODELS / name / f"{recipe}.yaml").is_file()


def test_a_run_is_a_table_with_a_row_a_file_and_runtime(tmp_path):
    cell = {"artifact": "a", "runtime": "onnxruntime_cpu", "batch_size": 1}
    records = [
        Measurement(
            metric="latency.p50", value=0.002, low=0.0015, high=0.003, label="teacher", **cell
        ),
        Measurement(
            metric="latency.p50", value=0.0005, low=0.0005, high=0.0006, label="small", **cell
        ),
        Measurement(metric="agreement.top1", value=0.5, label="teacher", n=40, **cell),
        Measurement(metric="latency.p50", value=None, skipped="why", label="other", **cell),
    ]
    (tmp_path / "int8").mkdir()
    write(records, tmp_path / "int8" / "measurements.jsonl")
    text = gallery.page("digits", [tmp_path / "int8", tmp_path / "never"], this_machine())
    assert "| teacher | onnxruntime_cpu | 50.00 % (n 40) | 1 | - | - | - |" in text
    assert "| small | onnxruntime_cpu | - | 0.25 (0.167 to 0.4) | - | - | - |" in text
    assert "other" not in text
    assert "## never" not in text


def test_a_subject_without_its_packages_is_skipped_in_words(monkeypatch, capsys, tmp_path):
    script = tmp_path / "digits" / "make.py"
    script.parent.mkdir()
    script.write_text("import sys\nsys.exit(3)\n")
    monkeypatch.setattr(gallery, "MODELS", tmp_path)
    only = {"digits": gallery.Subject(recipes=("recipe",), program="make.py")}
    monkeypatch.setattr(gallery, "SUBJECTS", only)
    monkeypatch.setattr(sys, "argv", ["gallery.py", "digits", "--work", str(tmp_path / "work")])
    gallery.main()
    assert "skipped: digits" in capsys.readouterr().out
