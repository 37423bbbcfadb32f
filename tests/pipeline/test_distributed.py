"""A run of several processes: made together, written once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LIMIT_SECONDS = 300  # a hang must not become CI's


@pytest.mark.slow
def test_torchrun_ends_with_one_store_and_exit_code_0(project):
    out = project / "run"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "kdeploy", "run", str(project / "recipe.yaml"), "--out", str(out)),
        *("--until", "compress", "--csv-log", "--json"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    stages = ["teacher", "distill", "distill", "compress", "compress"]  # the second: the control
    assert [s["stage"] for s in summary["stages"]] == stages
    stored = {p.name for p in (out / "artifacts").glob("[0-9a-f]*")}
    assert stored == {s["artifact"] for s in summary["stages"]}
    table = (out / "training.csv").read_text().splitlines()
    assert len(table) == 1 + 2 + 2 + 2 + 1, "a row an epoch, of one process"
