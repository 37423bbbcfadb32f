"""An option more is one field, or one parameter, and the line that uses it: two files at most."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
USE = '    __import__("logging").getLogger("added").warning("{} is %s", {})'
NOISE = 'noise: float = Field(default=0.0, ge=0, description="of the gradients")'
PATIENCE = 'patience: int = Field(default=3, gt=0, description="of the student")'
EDITS = [
    # Of the training: its field, and the optimizer that uses it.
    ("training/config.py", "    epochs: int | None = Field(", f"    {NOISE}"),
    ("training/optimization.py", "    trained = [", USE.format("noise", "settings.noise")),
    # Of a distillation: its field, and the line that uses it.
    ("distill/config.py", "    label_weight: Scheduled", f"    {PATIENCE}"),
    ("distill/run.py", "    loss_specs = loss", USE.format("patience", "config.patience")),
    # Of a loss and of a scheme: a parameter of the function, used there.
    ("distill/losses/kd.py", "    temperature: Annotated", "    shift: float = 0.0,"),
    ("distill/losses/kd.py", "    del labels", USE.format("shift", "shift")),
    ("distill/schemes/offline.py", ") -> nn.Module:", "    *,\n    rounds: int = 1,"),
    ("distill/schemes/offline.py", "    (student,), (teacher,)", USE.format("rounds", "rounds")),
]
"""File, the line that follows, and the line that comes in."""
RECIPE = """
data: {name: digits, size: 8}
teacher: {build: build.py:net, args: {classes: 10}, train: {epochs: 0}}
student: {build: build.py:net, args: {classes: 10}}
distill:
  epochs: 1
  noise: 0.25
  patience: 7
  losses: [{kd: {shift: 0.5}}]
  scheme: {offline: {rounds: 4}}
"""
BY_FLAGS = [
    "distill", "--teacher", "build.py:net", "--teacher-args", "{classes: 10}",
    "--student", "build.py:net", "--student-args", "{classes: 10}", "--data", "digits:size=8",
    "--set", "teacher.train.epochs=0", "--epochs", "1", "--noise", "0.25", "--patience", "7",
    "--loss", "{kd: {shift: 0.5}}", "--scheme", "{offline: {rounds: 4}}", "--out", "flags",
]  # fmt: skip
BOTH = """
import sys
from kdeploy.cli import main
for arguments in (["run", "recipe.yaml", "--until", "distill", "--out", "recipe"], {flags!r}):
    print("---", arguments[0], file=sys.stderr)
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, arguments
"""
EXPECTED = {"noise is 0.25", "patience is 7", "shift is 0.5", "rounds is 4"}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Return what a copy with four more options said of them: by a recipe, and by flags."""
    root = tmp_path_factory.mktemp("extended")
    unneeded = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "kdeploy", root / "kdeploy", ignore=unneeded)
    for name, before, line in EDITS:
        file = root / "kdeploy" / name
        head, found, tail = file.read_text().partition(before)
        assert found, f"{name} has no `{before}`"
        file.write_text(f"{head}{line}\n{found}{tail}")
    shutil.copy(REPOSITORY / "tests" / "tiny" / "build.py", root)
    (root / "recipe.yaml").write_text(RECIPE)
    environment = {**os.environ, "PYTHONPATH": str(root), "NO_COLOR": "1"}
    environment.pop("KDEPLOY_HINTS", None)
    command = [sys.executable, "-c", BOTH.format(flags=BY_FLAGS)]
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    _, by_recipe, by_flags = done.stderr.split("--- ")
    return {"recipe": by_recipe, "flags": by_flags, "folder": root}


@pytest.mark.parametrize("way", ["recipe", "flags"])
def test_it_reaches_the_code_that_uses_it(way, told):
    assert {line for line in EXPECTED if line in told[way]} == EXPECTED


def test_it_is_written_out_in_the_resolved_recipe(told):
    texts = [(told["folder"] / name / "recipe.yaml").read_text() for name in ("recipe", "flags")]
    for text in texts:
        assert {"noise: 0.25", "patience: 7", "shift: 0.5", "rounds: 4"} <= {
            line.strip() for line in text.splitlines()
        }
