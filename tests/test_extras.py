"""What pip would install for the heavy extras: nothing of torch changes.

Asks the package index, so it runs only where it is asked for, by `KDEPLOY_RESOLVE=1`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
KEPT = ("torch", "torchao", "numpy", "onnx", "onnxruntime")


@pytest.mark.skipif(
    os.environ.get("KDEPLOY_RESOLVE") != "1", reason="asks the package index: KDEPLOY_RESOLVE=1"
)
@pytest.mark.parametrize("extra", ["executorch", "ai-edge-litert", "litert"])
def test_an_extra_changes_nothing_of_torch(extra, tmp_path):
    report = tmp_path / "plan.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet"]
    command += ["--report", str(report), f"{REPOSITORY}[{extra}]"]
    subprocess.run(command, check=True, capture_output=True)
    planned = {i["metadata"]["name"].lower() for i in json.loads(report.read_text())["install"]}
    assert planned
    assert not planned & set(KEPT)


def test_every_extra_of_the_edge_is_pinned():
    pins = (REPOSITORY / "constraints-edge.txt").read_text().splitlines()
    names = {line.split("==")[0] for line in pins if "==" in line}
    assert {"executorch", "litert-torch", "ai-edge-litert", "torch"} <= names
