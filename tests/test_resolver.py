"""What pip would install for an extra beside what is here: the plan alone, nothing is installed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "KDEPLOY_INDEX" not in os.environ, reason="asks the package index: make test-resolver"
    ),
]
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
SECONDS = 300


def plan(extra):
    """Return what pip would install or change for an extra, by name."""
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-"]
    try:
        done = subprocess.run(
            [*command, *asked], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package index gave no plan within {SECONDS} s")
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["pip failed"]
        conflict = "ResolutionImpossible" in done.stderr or "conflicting" in done.stderr
        assert not conflict, done.stderr[-2000:]
        pytest.skip(f"the package index is not reachable: {last[0][:200]}")
    return {
        one["metadata"]["name"]: one["metadata"]["version"]
        for one in json.loads(done.stdout)["install"]
    }


def installed(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@pytest.mark.parametrize("extra", ["executorch", "litert", "ai-edge-litert"])
def test_an_extra_adds_and_changes_nothing_that_is_there(extra):
    changed = {
        name: (installed(name), version)
        for name, version in plan(extra).items()
        if installed(name) is not None
    }
    assert changed == {}
