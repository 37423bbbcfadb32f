from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from kdeploy.bench.client import Worker, WorkerFailed
from kdeploy.runtimes.run import named

ENOUGH_SECONDS = 60.0


@pytest.fixture
def pool(tmp_path):
    np.save(tmp_path / "pool.npy", np.ones((4, 2, 3), np.float32))
    return tmp_path / "pool.npy"


def _open_request(path, pool, runtime="fake"):
    technique, options = named(runtime)
    kind = {"module": technique.module, "kind": technique.function, "options": options}
    request = {"do": "open", **kind, "path": str(path), "pool": str(pool)}
    return {**request, "threads": 1, "batch_size": 2}


def _file(folder, **settings):
    path = folder / "fake.onnx"
    path.write_text(json.dumps({"latency_seconds": 0, **settings}))
    return path


WARM_UP = {"do": "warm_up", "window_seconds": 0, "limit_seconds": 1}


def test_answers_one_request_after_the_other(tmp_path, pool):
    with Worker(tmp_path, timeout_seconds=ENOUGH_SECONDS) as worker:
        opened = worker.ask(_open_request(_file(tmp_path), pool))
        assert opened["load_seconds"] > 0
        assert opened["first_seconds"] > 0
        assert isinstance(worker.ask(WARM_UP)["is_steady"], bool)
        samples = tmp_path / "samples.npy"
        measured = worker.ask({"do": "measure", "seconds": 0, "count": 9, "file": str(samples)})
        assert len(np.load(samples)) == 9
        assert measured["elapsed_seconds"] >= np.load(samples).sum() * 1e-9
        assert worker.ask({"do": "memory"})["peak_bytes"] > 2**20
        assert worker.ask({"do": "proof"})["proof"]["provider"] == "fake"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("crash", r"crashed \(SIGABRT\): Fatal Python error: Aborted"),
        ("out_of_memory", r"killed \(SIGKILL\).*memory"),
        ("error", "RuntimeError: the fake's fault"),
        ("refuse", "ModelError: .* refuses to open"),
    ],
)
def test_a_failure_has_a_reason(tmp_path, pool, fault, reason):
    with (
        Worker(tmp_path, timeout_seconds=ENOUGH_SECONDS) as worker,
        pytest.raises(WorkerFailed, match=reason),
    ):
        worker.ask(_open_request(_file(tmp_path, fault=fault), pool))


def test_a_dead_worker_keeps_its_reason(tmp_path, pool):
    with Worker(tmp_path, timeout_seconds=ENOUGH_SECONDS) as worker:
        with pytest.raises(WorkerFailed):
            worker.ask(_open_request(_file(tmp_path, fault="crash"), pool))
        with pytest.raises(WorkerFailed, match="SIGABRT"):
            worker.ask({"do": "memory"})


def test_a_hanging_file_is_ended_at_the_timeout(tmp_path, pool):
    with Worker(tmp_path, timeout_seconds=ENOUGH_SECONDS) as worker:
        worker.ask(_open_request(_file(tmp_path, fault="hang", fault_at=1), pool))
        worker._timeout_seconds = 0.2
        with pytest.raises(WorkerFailed, match=r"timeout: no answer within 0\.2 s"):
            worker.ask(WARM_UP)
        assert not psutil.pid_exists(worker.pid)


def test_what_a_library_prints_does_not_disturb_the_answers(tmp_path, pool):
    with Worker(tmp_path, timeout_seconds=ENOUGH_SECONDS) as worker:
        assert worker.ask(_open_request(_file(tmp_path, fault="garbage"), pool))
    assert b"{not the protocol}" in (tmp_path / "printed.txt").read_bytes()


def test_the_parent_uses_no_processor_while_it_waits(tmp_path, pool):
    with Worker(tmp_path, timeout_seconds=ENOUGH_SECONDS) as worker:
        worker.ask(_open_request(_file(tmp_path, latency_seconds=0.05), pool))
        before = psutil.Process().cpu_times()
        samples = str(tmp_path / "samples.npy")
        worker.ask({"do": "measure", "seconds": 0.5, "count": 1, "file": samples})
        after = psutil.Process().cpu_times()
    assert after.user + after.system - before.user - before.system < 0.1


def test_nothing_is_left_running(tmp_path):
    with Worker(tmp_path, timeout_seconds=ENOUGH_SECONDS) as worker:
        assert psutil.pid_exists(worker.pid)
    assert not psutil.pid_exists(worker.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/PID/maps")
def test_onnx_runtime_is_measured_without_torch(tmp_path, float_file):
    np.save(tmp_path / "pool.npy", np.ones((2, 2, 6, 6), np.float32))
    request = _open_request(float_file, tmp_path / "pool.npy", "onnxruntime_cpu")
    with Worker(tmp_path, timeout_seconds=ENOUGH_SECONDS) as worker:
        worker.ask(request)
        mapped = Path(f"/proc/{worker.pid}/maps").read_text()
        peak_bytes = worker.ask({"do": "memory"})["peak_bytes"]
    assert "libonnxruntime" in mapped or "onnxruntime_pybind11_state" in mapped
    assert "libtorch" not in mapped
    assert peak_bytes < 120e6
