from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from kdeploy.bench.worker import WorkerSession
from kdeploy.data.load import load
from kdeploy.runtimes.fake import Fake
from kdeploy.runtimes.onnxruntime_cpu import OnnxruntimeCpu


@pytest.fixture
def opened(tmp_path, fake):
    return _opened(tmp_path, fake)[0]


def test_accuracy_is_saved_and_told(opened, data, tmp_path):
    file = tmp_path / "predicted.npy"
    asked = {"data": data.to_dict(), "part": "test", "batch_size": 2}
    request = {"do": "accuracy", **asked, "file": str(file)}
    metrics = opened.answer(request)["reply"]["metrics"]
    expected = np.mean(np.load(file) == load(data).test.y)
    assert metrics["accuracy.top1"] == pytest.approx(expected)


def test_an_error_is_an_answer(opened):
    assert opened.answer({"do": "dance"}) == {"error": "KeyError: 'dance'"}


def test_replies_go_to_the_descriptor_and_prints_do_not(tmp_path, fake):
    np.save(tmp_path / "pool.npy", np.ones((2, 2, 6, 6), np.float32))
    path = str(fake("loud", fault="garbage").path)
    request = _open_request(Fake, path, tmp_path / "pool.npy")
    reading, writing = os.pipe()
    answer = subprocess.run(
        [sys.executable, "-m", "kdeploy.bench.worker", str(writing)],
        input=json.dumps(request).encode() + b"\n",
        capture_output=True,
        pass_fds=[writing],
        check=True,
    )
    os.close(writing)
    with os.fdopen(reading) as replies:
        assert {"load_seconds", "first_seconds"} <= set(json.loads(replies.read())["reply"])
    assert answer.stdout == b"\x00{not the protocol}\n"


class WithClock(Fake):
    """A fake whose device has a clock of its own: a quarter of the time is on the device."""

    def device_seconds(self):
        return 0.25e-3


def test_a_device_with_a_clock_is_timed_by_it_apart(tmp_path, fake, monkeypatch):
    session, reply = _opened(tmp_path, fake, WithClock)
    assert reply["has_device_clock"]
    request = {"seconds": 0, "count": 5, "file": str(tmp_path / "device.npy")}
    assert "reply" in session.answer({"do": "device", **request})
    assert np.load(tmp_path / "device.npy").tolist() == [250_000] * 5


def test_a_runtime_without_a_clock_says_so(tmp_path, fake):
    _, reply = _opened(tmp_path, fake)
    assert not reply["has_device_clock"]


def test_memory_is_told_before_and_after_the_file_is_open(tmp_path, fake):
    session, reply = _opened(tmp_path, fake)
    peak_bytes = session.answer({"do": "memory"})["reply"]["peak_bytes"]
    assert 0 < reply["empty_bytes"] <= reply["loaded_bytes"] <= peak_bytes


def test_the_batch_that_fits_is_the_one_that_is_measured(tmp_path, fake):
    seen = []
    session, _ = _opened(tmp_path, fake)
    infer = session._infer
    session._infer = lambda batch: seen.append(len(batch)) or infer(batch)
    request = {"do": "fit", "seconds": 60.0, "memory_bytes": 0}
    assert session.answer(request)["reply"] == {"batch_size": None}
    session._infer = _limited(seen, infer, largest=9)
    found = session.answer({**request, "memory_bytes": 2**60})["reply"]["batch_size"]
    assert found == 9
    session.answer({"do": "keep_busy", "seconds": 0})
    assert seen[-1] == 9


def test_a_server_keeps_the_times_of_all_its_requests(tmp_path, fake):
    session, _ = _opened(tmp_path, fake)
    request = {"do": "serve", "rate": 1000.0, "count": 8, "seed": 1, "limit_seconds": 60.0}
    file = tmp_path / "served.npy"
    assert "reply" in session.answer({**request, "late_allowed": 0, "file": str(file)})
    assert len(np.load(file)) == 8
    assert np.load(file).min() >= 200_000


# What a script would not import that runs the same file; each was once 0.1 to 14 MB of the peak.
NEEDLESS = {
    *("difflib", "hashlib", "logging", "random", "resource", "shutil", "statistics", "tempfile"),
    *("traceback", "socket", "subprocess", "multiprocessing", "onnx", "psutil", "pydantic"),
    *("torch", "yaml", "importlib.metadata", "kdeploy.machine", "kdeploy.registry"),
    *("kdeploy.preprocessing", "kdeploy.runtimes.run", "kdeploy.data.load"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere `resource` tells the peak")
def test_measuring_imports_nothing_that_a_script_with_the_same_runtime_does_not(
    tmp_path, float_file
):
    np.save(tmp_path / "pool.npy", np.ones((2, 2, 6, 6), np.float32))
    rounds = {"seconds": 0, "count": 3, "file": str(tmp_path / "samples.npy")}
    requests = [
        _open_request(OnnxruntimeCpu, float_file, tmp_path / "pool.npy"),
        {"do": "warm_up", "window_seconds": 0, "limit_seconds": 1},
        {"do": "measure", **rounds},
        {"do": "memory"},
    ]
    code = (
        "import sys, numpy, onnxruntime; before = set(sys.modules)\n"
        "from kdeploy.bench.worker import WorkerSession\n"
        f"session = WorkerSession(); replies = [session.answer(r) for r in {requests}]\n"
        "assert all('reply' in reply for reply in replies), replies\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "kdeploy.runtimes.onnxruntime_cpu" in imported
    assert not imported & NEEDLESS


def _limited(seen, infer, *, largest):
    def limited(batch):
        if len(batch) > largest:
            raise MemoryError
        seen.append(len(batch))
        return infer(batch)

    return limited


def _opened(tmp_path, fake, kind=Fake):
    np.save(tmp_path / "pool.npy", np.ones((7, 2, 6, 6), np.float32))
    session = WorkerSession()
    request = _open_request(kind, fake("a").path, tmp_path / "pool.npy")
    return session, session.answer(request)["reply"]


def _open_request(kind, path, pool):
    runtime = {"module": kind.__module__, "kind": kind.__name__, "options": {}}
    files = {"path": str(path), "pool": str(pool)}
    return {"do": "open", **runtime, **files, "threads": 1, "batch_size": 2}
