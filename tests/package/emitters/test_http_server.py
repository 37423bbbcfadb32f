"""The server answers real requests as the bundle's own runner does, and refuses the others."""

from __future__ import annotations

import ast
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing, contextmanager

import numpy as np
import pytest

from kdeploy.errors import ModelError
from kdeploy.package.emission import Bundle
from kdeploy.package.emitters import http_server as module

MOST = 20_000


@contextmanager
def served(bundle):
    """Yield the process of a bundle's own server and the port where it answers."""
    program = bundle / "deploy" / "http_server" / "serve.py"
    command = [sys.executable, "-I", "-B", program, "--port", "0", "--threads", "1"]
    process = subprocess.Popen(
        [*map(str, command), "--most-body-bytes", str(MOST)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        told = process.stdout.readline()
        assert "answers at http://127.0.0.1:" in told, process.stderr.read()
        yield process, int(told.rpartition(":")[2].partition("/")[0])
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def bundle(make_bundle, tmp_path_factory):
    from kdeploy.package.emission import emissions

    out = tmp_path_factory.mktemp("served") / "bundle"
    return make_bundle(out, emitted=emissions([{"http_server": {}}], "emit"))


@pytest.fixture(scope="module")
def port(bundle):
    with served(bundle) as (_, port):
        yield port


def asked(port, method, path, body=None, headers=None):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, body, headers or {})
        with connection.getresponse() as answer:
            assert answer.headers["Content-Type"] == "application/json"
            return answer.status, json.loads(answer.read())


def as_npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_answers_what_the_runner_answers(port, bundle, tiny, run_runner, tmp_path):
    np.save(tmp_path / "items.npy", tiny.stored[:3])
    done = run_runner(bundle, "--json", "--top", 3, tmp_path / "items.npy")
    expected = [[], [], []]
    for one in json.loads(done.stdout)["predictions"]:
        expected[one.pop("item")].append({k: v for k, v in one.items() if k != "input"})
    for item, predictions in zip(tiny.stored[:3], expected, strict=True):
        status, found = asked(port, "POST", "/predict", as_npy(item))
        assert (status, found) == (200, {"model": "tiny", "predictions": predictions})


def test_takes_an_image(port, tiny):
    image = pytest.importorskip("PIL.Image", reason="pip install pillow")
    file = io.BytesIO()
    image.fromarray(tiny.stored[0][0]).save(file, "PNG")
    of_image = asked(port, "POST", "/predict", file.getvalue())
    assert of_image == asked(port, "POST", "/predict", as_npy(tiny.stored[0]))
    assert of_image[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "empty"),
        (b"no image", 400, "the body cannot be decoded"),
        (as_npy(np.zeros((2, 1, 8, 8), np.uint8)), 400, "2 items"),
        (as_npy(np.zeros((1, 9, 9), np.uint8)), 400, "the model takes (1, 8, 8)"),
        (as_npy(np.full((1, 8, 8), np.nan)), 400, "NaN"),
        (as_npy(np.array([{}], dtype=object)), 400, "no .npy file of numbers"),
        (as_npy(np.zeros((1, 8, 8)))[:-1], 400, "bytes of data"),
        (b"x" * (MOST + 1), 413, f"more than {MOST}"),
    ],
)
def test_what_is_no_item_is_refused_in_a_sentence(port, body, status, words):
    found, document = asked(port, "POST", "/predict", body)
    assert found == status
    assert words.replace("no .npy", "not a .npy") in document["error"]
    assert document["hint"]
    assert "/tmp" not in document["error"]


def test_other_paths_and_methods_are_no_crash(port):
    assert asked(port, "GET", "/health") == (200, {"status": "ok", "model": "tiny"})
    assert asked(port, "GET", "/etc/passwd")[0] == 404
    assert asked(port, "POST", "/other", b"x")[0] == 404
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("DELETE", "/predict")
        with connection.getresponse() as answer:
            assert answer.status == 501


@pytest.mark.parametrize(
    "head", [b"", b"Content-Length: -1", b"Content-Length: 1e3", b"Transfer-Encoding: chunked"]
)
def test_a_body_of_unknown_length_is_not_read(port, head):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        lines = [b"POST /predict HTTP/1.1", b"Host: x", *([head] if head else [])]
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 411 ")


def test_a_large_body_is_refused_before_it_is_sent(port):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        head = f"Content-Length: {MOST + 1}\r\nExpect: 100-continue".encode()
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_keeps_silent_keeps_nobody_else_waiting(port, tiny):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        assert asked(port, "POST", "/predict", as_npy(tiny.stored[0]))[0] == 200


def test_says_whether_it_is_healthy_and_ends_when_it_is_told_to(bundle):
    program = [sys.executable, "-I", str(bundle / "deploy/http_server/serve.py")]
    with served(bundle) as (process, port):
        ask = [*program, "--is-healthy", "--port", str(port)]
        assert subprocess.run(ask, check=False).returncode == 0
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert subprocess.run(ask, check=False).returncode == 1


def test_a_damaged_bundle_is_not_served(make_bundle, tmp_path, flip_byte):
    from kdeploy.package.emission import emissions

    chosen = emissions([{"http_server": {}}], "emit")
    bundle = make_bundle(tmp_path / "bundle", emitted=chosen)
    flip_byte(bundle / "model.onnx")
    program = [sys.executable, str(bundle / "deploy/http_server/serve.py"), "--port", "0"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "damaged: model.onnx was changed" in done.stderr


def test_is_written_for_the_pythons_of_devices(bundle):
    source = (bundle / "deploy/http_server/serve.py").read_text()
    tree = ast.parse(source, feature_version=(3, 9))
    plain = [n for n in ast.walk(tree) if isinstance(n, ast.Import)]
    imported = {a.name.split(".")[0] for n in plain for a in n.names}
    imported |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


def test_a_language_model_is_refused(bundle, tmp_path):
    from dataclasses import replace

    from kdeploy.package.manifest import read_manifest

    known = read_manifest(bundle)
    manifest = replace(known, model=replace(known.model, format="genai"))
    with pytest.raises(ModelError, match="answers prompts"):
        module.http_server(Bundle(folder=bundle, manifest=manifest), tmp_path)
