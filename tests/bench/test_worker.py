from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from kdeploy.bench.worker import Session
from kdeploy.data.load import load


@pytest.fixture
def opened(tmp_path, fake):
    np.save(tmp_path / "pool.npy", np.ones((7, 2, 6, 6), np.float32))
    session = Session()
    request = {"do": "open", "runtime": "fake", "path": str(fake("a").path), "threads": 1}
    answer = session.answer({**request, "pool": str(tmp_path / "pool.npy"), "batch_size": 2})
    assert "reply" in answer, answer
    return session


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
