"""A signal during the export is not lost, in whatever code it comes; nothing half-made stays."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml


@pytest.fixture
def export(project):
    """Return a function that starts a run which only exports, into a folder of its own."""
    recipe = yaml.safe_load((project / "recipe.yaml").read_text())
    recipe["teacher"]["train"] = {"epochs": 0}
    for key in ("student", "distill", "compress", "package", "gates"):
        recipe.pop(key)
    (project / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    temporary = project / "temporary"
    temporary.mkdir()

    def start(out):
        command = [sys.executable, "-m", "kdeploy", "run", str(project / "recipe.yaml")]
        process = subprocess.Popen(
            [*command, "--out", str(project / out), "--until", "export"],
            env={**os.environ, "TMPDIR": str(temporary)},
            # A shell that starts the tests in the background has SIGINT ignored: inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        log = project / out / "log.jsonl"
        while process.poll() is None and not (log.is_file() and '"export"' in log.read_text()):
            time.sleep(0.01)
        return process

    return start


@pytest.mark.parametrize(("number", "trials"), [(signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_a_signal_at_a_random_moment_of_the_export_ends_it_cleanly(project, export, number, trials):
    moments = random.Random(number)
    for trial in range(trials):
        with export(f"run{trial}") as process:
            time.sleep(moments.uniform(0, 1.5))
            assert process.poll() is None, "it had been exported before the signal came"
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + number, errors
        assert errors.count("hint: the same command goes on from here") == 1
        assert "Traceback" not in errors
        assert "Exception ignored" not in errors
        left = [p.name for p in (project / f"run{trial}").rglob(".*") if "partial" in p.name]
        left += [p.name for p in (project / "temporary").glob("kdeploy-*")]
        assert left == []
