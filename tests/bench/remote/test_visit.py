from __future__ import annotations

from threading import Event

import pytest

from kdeploy.bench.remote.hosts import parse_host
from kdeploy.bench.remote.job import job_of
from kdeploy.bench.remote.link import Interrupted
from kdeploy.bench.remote.outcomes import outcomes_of
from kdeploy.bench.remote.visit import visit
from kdeploy.bench.subject import Plan, Subject
from kdeploy.machine import fingerprint


@pytest.fixture
def job(float_file, int8_file, data, tmp_path):
    """Two files, two batch sizes, some milliseconds each."""
    subjects = [
        Subject(artifact=f"id-{p.stem}", label=p.stem, path=p, format="onnx")
        for p in (float_file, int8_file)
    ]
    short = {"minimum_seconds": 0.02, "minimum_count": 16, "timeout_seconds": 30}
    plan = Plan(data=data, accuracy=True, **short)
    (tmp_path / "files").mkdir()
    return job_of(subjects, plan, batch_sizes=[1, 4], threads=[None], folder=tmp_path / "files")


def test_a_connection_that_breaks_costs_nothing(ssh, job, tmp_path):
    noted = []

    def watch(text):
        noted.append(text)
        if "warms up" in text and "1 of 2" in text:
            ssh[0].cut()

    host = parse_host(ssh[0].option)
    answers = visit(host, job, tmp_path / "kept", stopping=Event(), watch=watch)

    assert any("again in" in text for text in noted), noted
    assert answers.machine.id == fingerprint().id
    cores = fingerprint().cores
    groups = [outcomes_of(file, group, job) for file, group in answers.results.items()]
    assert [str(group[0].cell) for group in groups] == [
        f"onnxruntime_cpu-b1-t{cores}",
        f"onnxruntime_cpu-b4-t{cores}",
    ]
    outcomes = [outcome for group in groups for outcome in group]
    assert [(o.skipped, o.missing, len(o.rounds)) for o in outcomes] == [(None, {}, 8)] * 4
    assert [o.proof.integer for o in outcomes] == [0, 2, 0, 2]
    assert all(20e6 < o.peak_memory_bytes < 120e6 for o in outcomes)
    assert ssh[0].leftovers() == []
    assert ssh[0].is_quiet()


def test_a_user_who_wants_no_more_leaves_a_clean_device(ssh, job, tmp_path):
    stopping = Event()

    def watch(text):
        if "warms up" in text:
            assert ssh[0].processes()
            stopping.set()

    with pytest.raises(Interrupted):
        visit(parse_host(ssh[0].option), job, tmp_path / "kept", stopping=stopping, watch=watch)
    assert ssh[0].leftovers() == []
    assert ssh[0].is_quiet()
