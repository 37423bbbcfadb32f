"""One file with one decorated function is all it takes to add a technique."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCE = '''"""Shrink all weights towards zero.

A. Nobody, Small Weights Are Beautiful, 2020, arXiv:2001.00000.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from kdeploy.compress.contract import CompressContext, compressor


def has_small_weights(model: nn.Module) -> None:
    """Raise AssertionError when a weight is large."""
    assert all(p.abs().max() < 10 for p in model.parameters()), "a weight is large"


@compressor(paper="arXiv:2001.00000", before={"int8_ptq"}, ensures=has_small_weights)
def shrink_weights(
    model: nn.Module,
    context: CompressContext,
    *,
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5,
) -> nn.Module:
    """Return the model with each weight times the factor.

    Args:
        factor: What each weight is multiplied with; no unit.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model
'''
RECIPE = """
data: {name: digits}
teacher: {build: build.py:net, args: {classes: 10}, train: {epochs: 0}}
compress: [{shrink_weights: {factr: 0.25}}]
export: [{onnx: {}}]
bench: {runtimes: [onnxruntime_cpu]}
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """Return a copy of the project with one file more."""
    root = tmp_path_factory.mktemp("extended")
    unneeded = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "kdeploy", root / "kdeploy", ignore=unneeded)
    for folder in ("contracts", "tiny"):
        shutil.copytree(REPOSITORY / "tests" / folder, root / "tests" / folder, ignore=unneeded)
    shutil.copy(REPOSITORY / "tests" / "conftest.py", root / "tests")
    shutil.copy(REPOSITORY / "pyproject.toml", root)
    (root / "kdeploy" / "compress" / "compressors" / "shrink_weights.py").write_text(SOURCE)
    return root


def python(root, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200", "NO_COLOR": "1"}
    environment.pop("KDEPLOY_HINTS", None)  # the copy has not all of the tests
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )


def kdeploy(root, *arguments):
    done = python(root, "-m", "kdeploy", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_a_key_of_recipes_with_its_parameters(extended):
    schema = json.dumps(json.loads(kdeploy(extended, "recipe-schema")))
    assert '"shrink_weights"' in schema
    assert '"factor"' in schema
    assert "exclusiveMaximum" in schema


def test_a_recipe_that_misspells_its_parameter_is_told_so(extended):
    folder = extended / "project"
    folder.mkdir()
    shutil.copy(extended / "tests" / "tiny" / "build.py", folder)
    (folder / "recipe.yaml").write_text(RECIPE)
    done = python(extended, "-m", "kdeploy", "run", folder / "recipe.yaml", "--out", folder / "out")
    assert done.returncode == 2, done.stderr
    assert "there is no key `factr`" in done.stderr
    assert "did you mean `factor`" in done.stderr
    assert not (folder / "out").exists()


def test_it_is_a_command_with_its_flags(extended):
    text = kdeploy(extended, "compress", "shrink_weights", "--help")
    assert "--factor" in text
    assert "What each weight is multiplied with; no unit." in text
    assert "shrink_weights" in kdeploy(extended, "compress", "--help")


def test_it_is_listed(extended):
    assert "Shrink all weights towards zero" in kdeploy(extended, "list", "compressor")
    listed = json.loads(kdeploy(extended, "list", "compressor", "--json"))
    assert "shrink_weights" in [t["name"] for t in listed["compressor"]]


def test_it_is_in_the_catalogue(extended):
    page = kdeploy(extended, "list", "--markdown")
    assert "### shrink_weights\n" in page
    assert "| `factor` | float > 0, < 1 | `0.5` | What each weight" in page


def test_it_has_its_contract_tests_and_they_pass(extended):
    chosen = ["tests/contracts/test_compressors.py", "tests/contracts/test_techniques.py"]
    done = python(
        extended, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "shrink_weights", *chosen
    )
    assert done.returncode == 0, done.stdout
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= 14
    assert "skipped" not in done.stdout
