from __future__ import annotations

import json
from threading import Event

import pytest

from kdeploy.bench.model_under_test import ModelUnderTest
from kdeploy.bench.plan import Plan
from kdeploy.bench.ssh.hosts import parse_host
from kdeploy.bench.ssh.job import job_of
from kdeploy.bench.ssh.link import LinkInterrupted
from kdeploy.bench.ssh.outcomes import outcomes_of
from kdeploy.bench.ssh.ssh_run import run_over_ssh


@pytest.fixture
def job_in(float_file, data, tmp_path):
    """Return a function that makes the job of one file."""

    def make(*batch_sizes, seconds):
        model = ModelUnderTest(artifact="id", label="float", path=float_file, format="onnx")
        how_long = {"minimum_seconds": seconds, "minimum_count": 16, "timeout_seconds": 30}
        plan = Plan(data=data, accuracy=False, batch_sizes=batch_sizes, threads=[1], **how_long)
        folder = tmp_path / "files"
        folder.mkdir()
        return job_of([model], plan, folder)

    return make


def test_a_connection_that_breaks_costs_nothing(ssh, job_in, tmp_path, monkeypatch):
    monkeypatch.setattr("kdeploy.bench.ssh.ssh_run.PAUSES_SECONDS", (0.01,) * 7)
    noted, pids, job = [], set(), job_in(1, 4, seconds=0.3)

    def watch(text):
        noted.append(text)
        if " of 2" in text and not pids:
            ssh[0].cut()
        if " of 2" in text:
            [holder] = (ssh[0].folder / "temporary").glob("*/running")
            pids.add(json.loads(holder.read_text())["pid"])

    host = parse_host(ssh[0].option)
    answers = run_over_ssh(host, job, tmp_path / "kept", stopping=Event(), watch=watch)

    assert any("again in" in text for text in noted), noted
    assert len(pids) == 1, "it went on, and was not started again"
    groups = [outcomes_of(file, group, job) for file, group in answers.results.items()]
    assert [(str(o.configuration), o.skipped, len(o.rounds)) for [o] in groups] == [
        ("onnxruntime_cpu-b1-t1", None, 8),
        ("onnxruntime_cpu-b4-t1", None, 8),
    ]
    assert ssh[0].leftovers() == []
    assert ssh[0].is_quiet()


def test_a_user_who_wants_no_more_leaves_a_clean_device(ssh, job_in, tmp_path):
    stopping, job = Event(), job_in(1, seconds=30)

    def watch(text):
        if "warms up" in text:
            assert ssh[0].processes()
            stopping.set()

    with pytest.raises(LinkInterrupted):
        run_over_ssh(
            parse_host(ssh[0].option), job, tmp_path / "kept", stopping=stopping, watch=watch
        )
    assert ssh[0].leftovers() == []
    assert ssh[0].is_quiet()
