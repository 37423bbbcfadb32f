from __future__ import annotations

from threading import Event

import time

T0 = time.time()
import numpy as np
import pytest

from kdeploy.bench.remote.hosts import parse_host
from kdeploy.bench.remote.job import job_of
from kdeploy.bench.remote.outcomes import outcomes_of
from kdeploy.bench.remote.visit import visit
from kdeploy.bench.subject import Plan, Subject


@pytest.fixture
def job(float_file, int8_file, data, tmp_path):
    """Two files, two batch sizes, some milliseconds each."""
    subjects = [
        Subject(artifact=f"id-{p.stem}", label=p.stem, path=p, format="onnx")
        for p in (float_file, int8_file)
    ]
    plan = Plan(
        data=data, accuracy=True, minimum_seconds=0.02, minimum_count=16, timeout_seconds=30
    )
    (tmp_path / "files").mkdir()
    return job_of(subjects, plan, batch_sizes=[1, 4], threads=[1], folder=tmp_path / "files")


def test_a_device_measures_and_is_left_as_it_was(ssh, job, tmp_path):
    noted = []
    host = parse_host(ssh[0].option)
    answers = visit(
        host,
        job,
        tmp_path / "kept",
        stopping=Event(),
        watch=lambda t: (noted.append(t), print(time.time() - T0, t)),
    )
    groups = [outcomes_of(file, group, job) for file, group in answers.results.items()]
    assert [str(o.cell) for group in groups for o in group] == [
        "onnxruntime_cpu-b1-t1",
        "onnxruntime_cpu-b1-t1",
        "onnxruntime_cpu-b4-t1",
        "onnxruntime_cpu-b4-t1",
    ]
    assert all(o.skipped is None and len(o.rounds) == 8 for group in groups for o in group), groups
    assert ssh[0].leftovers() == []
    assert ssh[0].is_quiet()
