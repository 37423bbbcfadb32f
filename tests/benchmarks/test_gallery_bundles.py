"""The table of the gallery's bundles, and of mutated ones, of what runners said."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.suites import gallery_bundles, mutated_bundles


def test_every_training_of_a_recipe_is_found():
    recipe = {
        "teacher": {"build": "b.py:net"},
        "distill": {"epochs": 9},
        "compress": [{"prune_channels": {"recover": {"epochs": 3}}}, {"int8_ptq": {}}],
    }
    assert list(gallery_bundles.epochs_of(recipe)) == [
        "teacher.train.epochs",
        "distill.epochs",
        "compress.0.prune_channels.recover.epochs",
    ]
    for brings in ({"build": "b.py:net", "weights": "w.safetensors"}, {"build": "onnx:m.onnx"}):
        recipe["teacher"] = brings
        assert "teacher.train.epochs" not in list(gallery_bundles.epochs_of(recipe))


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [(0.5, 0, "passes (25.0%)"), (3.0, 1, "fails: golden.max_abs (too far)")],
)
def test_a_runner_passes_or_says_what_fails(tmp_path, error, code, expected):
    check = {"check": "golden.max_abs", "value": error, "bound": 2.0, "reason": "too far"}
    report = json.dumps({"checks": [{**check, "passed": code == 0}]})
    program = tmp_path / "runner.py"
    program.write_text(f"import sys\nprint({report!r})\nsys.exit({code})\n")
    assert gallery_bundles.self_test([sys.executable, str(program)], tmp_path) == expected


def test_a_runner_that_says_nothing_fails(tmp_path):
    program = tmp_path / "runner.py"
    program.write_text("import sys\nsys.exit('no such library')\n")
    found = gallery_bundles.self_test([sys.executable, str(program)], tmp_path)
    assert found == "fails: no such library"


def test_the_table_counts_who_passes():
    row = {"recipe": "a/recipe", "task": "ctc", "format": "onnx", "size_bytes": 2000}
    row |= {"Python": "passes (1.0%)", "C++": "passes (1.0%)", "aarch64": "skipped: no"}
    text = gallery_bundles.page([row], is_whole=False)
    assert "of 1 recipes pass 1 in Python, 1 in C++, 0 in aarch64" in text
    assert "| a/recipe | ctc | onnx | 2 | passes (1.0%) | passes (1.0%) | skipped: no |" in text


def test_lots_of_mutants_are_added_up():
    lot = {"kind": "cpp", "mutants": 250, "refused": 249, "taken": 1, "traceback": 0, "hang": 0}
    lot |= {"accepted change": 0, "memory": 0, "peak_bytes": 5_000_000, "slowest_seconds": 2.0}
    text = mutated_bundles._page([{**lot, "wall_seconds": 3.0}, {**lot, "wall_seconds": 4.0}], 1)
    assert "| cpp | 500 | 498 | 2 | 0 | 0 | 0 | 0 | 5 MB | 2.0 s | 7 s |" in text
