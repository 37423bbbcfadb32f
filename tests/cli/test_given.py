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
        ("run .", ". is a folder, not a recipe"),
        ("compress int8_ptq .", "`.` is a folder without manifest.json, neither an artefact"),
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


def test_an_onnx_file_without_its_prefix_is_told_how_to_name_it(tmp_path, kdeploy, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.onnx").write_bytes(b"")
    for words in (("compress", "int8_ptq"), ("export", "onnx"), ("package", "--out", "b")):
        answer = kdeploy(*words, "net.onnx")
        assert answer.code == 2
        assert "write `onnx:net.onnx`" in answer.err


def test_a_folder_with_a_recipe_is_told_the_file(tmp_path, kdeploy):
    (tmp_path / "recipe.yaml").write_text("")
    assert f"`{tmp_path / 'recipe.yaml'}`" in kdeploy("run", tmp_path).err


@pytest.mark.parametrize(
    "words", [("init", ""), ("run", ""), ("bench", "x.onnx", "--out", ""), ("show", "")]
)
def test_an_empty_argument_is_no_folder(tmp_path, kdeploy, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    answer = kdeploy(*words)
    assert answer.code == 2
    assert f"the argument after `{words[-2]}` is empty" in answer.err
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
