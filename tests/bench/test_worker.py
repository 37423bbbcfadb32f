from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from kdeploy.bench.worker import Session
from kdeploy.data.load import load
from kdeploy.runtimes.fake import Fake


@pytest.fixture
def opened(tmp_path, fake):
    return _opened(tmp_path, fake)[0]


def test_accuracy_is_saved_and_told(opened, data, tmp_path):
    file = tmp_path / "predicted.npy"
    request = {"do": "accuracy", "data": data.to_dict(), "batch_size": 2, "file": str(file)}
    metrics = opened.answer(request)["reply"]["metrics"]
    expected = np.mean(np.load(file) == load(data).test.y)
    assert metrics["accuracy.top1"] == pytest.approx(expected)


def test_an_error_is_an_answer(opened):
    assert opened.answer({"do": "dance"}) == {"error": "KeyError: 'dance'"}


def test_a_format_that_the_runtime_does_not_open_is_refused_before_its_library_loads(tmp_path):
    request = {"do": "open", "runtime": "onnxruntime_cpu", "path": str(tmp_path)}
    assert "opens `onnx`" in Session().answer(request)["error"]


def test_replies_go_to_the_descriptor_and_prints_do_not(tmp_path, fake):
    np.save(tmp_path / "pool.npy", np.ones((2, 2, 6, 6), np.float32))
    path = str(fake("loud", fault="garbage").path)
    request = {"do": "open", "runtime": "fake", "path": path, "threads": 1, "batch_size": 2}
    request["pool"] = str(tmp_path / "pool.npy")
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
    monkeypatch.setattr("kdeploy.runtimes.run.create_runtime", lambda *args, **options: WithClock())
    session, reply = _opened(tmp_path, fake)
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
    infer = session._opened.infer
    session._opened.infer = lambda batch: seen.append(len(batch)) or infer(batch)
    request = {"do": "fit", "seconds": 60.0, "memory_bytes": 0}
    assert session.answer(request)["reply"] == {"batch_size": None}
    session._opened.infer = _limited(seen, infer, largest=9)
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


def _limited(seen, infer, *, largest):
    def limited(batch):
        if len(batch) > largest:
            raise MemoryError
        seen.append(len(batch))
        return infer(batch)

    return limited


def _opened(tmp_path, fake):
    np.save(tmp_path / "pool.npy", np.ones((7, 2, 6, 6), np.float32))
    session = Session()
    request = {"do": "open", "runtime": "fake", "path": str(fake("a").path), "threads": 1}
    request |= {"pool": str(tmp_path / "pool.npy"), "batch_size": 2}
    return session, session.answer(request)["reply"]
