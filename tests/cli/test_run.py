"""A run whose end fails in a part: all else is there, and the exit code is that error's."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from kdeploy.errors import ParityFailed, Unavailable


@pytest.mark.parametrize(
    ("raised", "code"),
    [(ParityFailed("it differs", hint="look"), 1), (Unavailable("it is gone"), 3)],
)
def test_what_exists_is_measured_and_reported(
    kdeploy, tmp_path, tiny_build, tiny_data, monkeypatch, raised, code
):
    def failing(*arguments, **parameters):
        raise raised

    target = "kdeploy.export.exporters.onnx_fp16_from_onnx.onnx_fp16_from_onnx"
    monkeypatch.setattr(target, failing)
    monkeypatch.chdir(tmp_path)  # where an internal error leaves what a report needs
    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(tmp_path / f"{name}.npz", x=part.x, y=part.y)
    recipe = {
        "data": {"name": "arrays", "train": "train.npz", "test": "test.npz"},
        "teacher": {"build": "build.py:net", "train": {"epochs": 0}},
        "export": [{"onnx_fp16": {}}, {"onnx": {}}],
        "bench": {"threads": [1], "minimum_seconds": 0.05, "minimum_count": 20},
        "package": {},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    answer = kdeploy("run", tmp_path / "recipe.yaml", "--out", tmp_path / "run")
    assert answer.code == code, answer.err
    assert str(raised).split("\n")[0] in answer.err
    assert "teacher" in answer.out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (failure,) = summary["failures"]
    assert (failure["technique"], failure["label"]) == ("onnx_fp16", "teacher")
    assert summary["packaged"] is None
    assert (tmp_path / "run" / "exports" / "teacher.onnx").is_file()
    assert "teacher" in (tmp_path / "run" / "measurements.csv").read_text()
    assert "of teacher failed" in (tmp_path / "run" / "report.md").read_text()
