import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from kdeploy.measurement import read
from kdeploy.pipeline.unfinished import told_of_the_dead

LONGER = ["--set", "teacher.train.epochs=6", "--set", "distill.epochs=6"]


def start(project, out, *flags):
    command = [sys.executable, "-m", "kdeploy", "run", str(project / "recipe.yaml")]
    return subprocess.Popen(
        [*command, "--out", str(project / out), *LONGER, *flags],
        start_new_session=True,
        # A shell that starts the tests in the background has SIGINT ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def completed(project, out):
    """Run to the end; return the exit code."""
    process = start(project, out)
    process.communicate()
    return process.returncode


def seconds_of_whole_run(project):
    """Run to the end; return when there was something to lose, and how long it took."""
    started, log = time.perf_counter(), project / "whole" / "log.jsonl"
    process = start(project, "whole")
    while process.poll() is None and not log.is_file():
        time.sleep(0.05)
    begun = time.perf_counter() - started
    process.communicate()
    assert process.returncode == 0
    return begun, time.perf_counter() - started


def outcome(out):
    stages = json.loads((out / "summary.json").read_text())["stages"]
    made = [(s["stage"], s["artifact"]) for s in stages if s["stage"] not in ("bench", "package")]
    accuracy = {r.label: r.value for r in read(out) if r.metric == "accuracy.top1"}
    return made, accuracy


@pytest.mark.slow
def test_killed_at_random_moments_a_rerun_ends_the_same(project):
    begun, seconds = seconds_of_whole_run(project)
    rng = random.Random(0)
    for _ in range(3):
        process = start(project, "killed")
        time.sleep(rng.uniform(begun, seconds * 0.8))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert completed(project, "killed") == 0
    assert outcome(project / "killed") == outcome(project / "whole")
    assert not list((project / "killed" / "artifacts").glob(".partial-*"))


@pytest.mark.slow
def test_two_runs_at_once_share_one_store(project):
    both = [start(project, "shared") for _ in range(2)]
    for process in both:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    stages = json.loads((project / "shared" / "summary.json").read_text())["stages"]
    folders = {p.name for p in (project / "shared" / "artifacts").glob("[0-9a-f]*")}
    assert {s["artifact"] for s in stages} <= folders


def test_ctrl_c_leaves_with_130_and_the_way_on(project):
    process = start(project, "run", "--set", "teacher.train.epochs=2000")
    wait_for(process, project / "run" / "log.jsonl", '"epoch"')
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "goes on from here" in errors
    assert "Traceback" not in errors
    assert told_of_the_dead(project / "run") == []


def test_a_run_that_was_killed_is_told_at_the_next_start(project):
    log, words = project / "run" / "log.jsonl", "was killed, or died without a word"
    for expected in ('"epoch"', words):
        process = start(project, "run", "--set", "teacher.train.epochs=2000")
        wait_for(process, log, expected)
        os.killpg(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
    assert f"{words}, while `teacher train teacher` was made, with" in errors
    assert "OMP_NUM_THREADS=1" in errors


def wait_for(process, log, words):
    while process.poll() is None and not (log.is_file() and words in log.read_text()):
        time.sleep(0.1)
