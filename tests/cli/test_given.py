"""What is not there is told before torch and the runtimes are imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHILD = """
import sys
from kdeploy.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    heavy = {"torch", "onnxruntime", "onnx", "pandas", "openvino"} & set(sys.modules)
    print(end.code, *sorted(heavy))
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("run missing.yaml", "there is no recipe missing.yaml"),
        ("bench missing.onnx", "neither an artefact nor a file"),
        ("bench missing.onnx --baseline other.onnx", "neither an artefact nor a file"),
        ("compress int8_ptq missing", "neither an artefact nor a model reference"),
        ("compress int8_ptq missing.py:net --as-built", "there is no file missing.py"),
        ("compress int8_ptq onnx:missing.onnx", "there is no file missing.onnx"),
        ("export onnx missing --data digits", "neither an artefact nor a model reference"),
        ("package missing --out bundle", "neither an artefact nor a model reference"),
        ("distill --teacher a.py:f --student a.py:f --data digitz", "there is no dataset"),
        ("verify missing", "missing"),
        ("report missing", "missing"),
        ("show missing", "neither an artefact's folder nor an id"),
    ],
)
def test_what_is_not_there_is_told_before_anything_heavy_is_imported(tmp_path, words, told):
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *words.split()], cwd=tmp_path, capture_output=True, text=True
    )
    assert child.stdout.split() == ["2"], child.stdout + child.stderr
    assert told in child.stderr
    assert "\nhint: " in child.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", ["compress int8_ptq deadbeef0123", "bench deadbeef0123", "export onnx module:function"]
)
def test_what_may_be_an_id_or_a_module_is_left_to_those_who_look_for_it(tmp_path, words):
    child = subprocess.run(
        [sys.executable, "-m", "kdeploy", *words.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert child.returncode in (2, 3)
    assert "neither an artefact nor" not in child.stderr
    assert "Traceback" not in child.stderr
