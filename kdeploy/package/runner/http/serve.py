"""Answer HTTP requests with the model of this bundle, one item a request.

    python serve.py --port 8080
    curl --data-binary @item.npy localhost:8080/predict     what the model reads in an item
    curl localhost:8080/health                              200 while it answers

A body is a .npy file as the data set stores an item, an image file where the model takes images
(Pillow), or a .npz file with an array for each of several inputs. Answers are JSON. An example to
begin from: it knows no users and no encryption, so what the world may ask stands behind a proxy.
Needs Python 3.9 or later and what the runner beside it needs.
"""

from __future__ import annotations

import argparse
import http.client
import importlib
import importlib.util
import json
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parents[2]
MOST_BODY_BYTES = 8 * 2**20
SLOWEST_SECONDS = 10.0  # that a client may keep a connection without sending
MOST_CLASSES = 5  # in an answer
# What a file begins with, and how it is read; anything else is an image.
KINDS = {b"\x93NUMPY": ".npy", b"PK\x03\x04": ".npz"}
Json = dict[str, Any]


class Model:
    """The bundle's model; its checksums and rules held when it was opened."""

    def __init__(self, bundle: Path, threads: int | None) -> None:
        runner = _runner(bundle)
        reading, rules, texts = runner.reading, runner.rules, runner.texts
        try:
            self.manifest = rules.check_rules(bundle, reading.check_files(bundle))
        except (reading.Refused, OSError) as error:
            texts.stop(f"this bundle is damaged: {error}", "unpack or copy it again")
        self._stopped = texts.Stopped
        self._read = importlib.import_module("kdeploy_bundle.given").given_arrays
        self._predict = runner.Predictor(bundle, self.manifest, threads or runner.allowed_cores())
        # One at a time: a model may keep a state, and two would share the processor anyway.
        self._turn = threading.Lock()

    def answer(self, body: bytes) -> tuple[int, Json]:
        """Return the status and the document of an item."""
        kind = next((KINDS[start] for start in KINDS if body.startswith(start)), ".image")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"item{kind}"
            file.write_bytes(body)
            try:
                return self._answer(file)
            except self._stopped as stopped:
                # What is missing here is no fault of the request.
                status = 400 if stopped.code == 2 else 500
                message = stopped.message.replace(str(file), "the body")
                return status, {"error": message, "hint": stopped.hint}

    def _answer(self, file: Path) -> tuple[int, Json]:
        arrays = self._read(file, self.manifest, False)
        if len(arrays[0]) != 1:
            error = f"the body holds {len(arrays[0])} items"
            return 400, {"error": error, "hint": "send one a request"}
        with self._turn:
            try:
                (told,) = self._predict(arrays, MOST_CLASSES)
            except Exception as error:  # whatever the library raises for this item
                return 500, {
                    "error": f"the model failed: {str(error)[:200]}",
                    "hint": "see its log",
                }
        return 200, {"model": self.manifest["name"], "predictions": told}


def _runner(bundle: Path) -> Any:
    place = bundle / "runner" / "python" / "run.py"
    spec = importlib.util.spec_from_file_location("bundle_runner", place)
    if spec is None or spec.loader is None or not place.is_file():
        raise SystemExit(f"there is no runner {place}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Server(ThreadingHTTPServer):
    """A server of one model; a connection is a thread, the model has one turn at a time."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], model: Model, most_body_bytes: int) -> None:
        super().__init__(address, Handler)
        self.model, self.most_body_bytes = model, most_body_bytes


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version, server_version, sys_version = "HTTP/1.1", "kdeploy", ""
    timeout = SLOWEST_SECONDS

    def do_GET(self) -> None:  # the name that the base calls
        """Answer whether the server answers."""
        if self.path == "/health":
            self._send(200, {"status": "ok", "model": self.server.model.manifest["name"]})
        else:
            self._send(404, {"error": f"there is no {self.path[:100]}", "hint": "GET /health"})

    def do_POST(self) -> None:
        """Answer what the model reads in the body."""
        if self.path != "/predict":
            self._refuse(404, f"there is no {self.path[:100]}", "POST /predict")
        elif self._is_taken():
            size = int(self.headers["Content-Length"])
            try:
                body = self.rfile.read(size)
            except OSError:  # too slow, or gone
                body = b""
            if len(body) < size:
                self._refuse(408, f"the body ended before its {size} bytes", "send all of it")
            else:
                self._send(*self.server.model.answer(body))

    def handle_expect_100(self) -> bool:
        """Refuse a body that is too large before it is sent."""
        return self._is_taken() and super().handle_expect_100()

    def _is_taken(self) -> bool:
        """Answer and return False where a body is of no size, or of too large a one."""
        told, most = self.headers.get("Content-Length", ""), self.server.most_body_bytes
        if not (told.isascii() and told.isdigit()) or "Transfer-Encoding" in self.headers:
            self._refuse(411, "the request does not say how long its body is", "Content-Length: N")
        elif len(told) > 12 or int(told) > most:
            self._refuse(413, f"the body has {told[:20]} bytes, more than {most}", "send less")
        elif int(told) == 0:
            self._refuse(400, "the body is empty", "curl --data-binary @item.npy")
        else:
            return True
        return False

    def _refuse(self, status: int, error: str, hint: str) -> None:
        """Answer without having read the body: nothing else can come on this connection."""
        self.close_connection = True
        self._send(status, {"error": error, "hint": hint})

    def _send(self, status: int, document: Mapping[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal ends it, or ask whether a server is healthy."""
    given = _parsed(arguments)
    if given.is_healthy:
        return 0 if is_healthy(given.host, given.port) else 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as process 1 it would be ignored
    model = Model(given.bundle, given.threads)
    with Server((given.host, given.port), model, given.most_body_bytes) as server:
        host, port = server.server_address[:2]
        print(f"{model.manifest['name']} answers at http://{host!s}:{port}/predict", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 130
    return 0


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("serve.py", description=(__doc__ or "").split("\n")[0])
    option = parser.add_argument
    option("--host", default="127.0.0.1", help="the address to listen on")
    option("--port", type=int, default=8080, help="0: any that is free")
    option("--threads", type=int, help="of the processor; left out, all that this process may use")
    option("--most-body-bytes", type=int, default=MOST_BODY_BYTES, metavar="N")
    option("--bundle", type=Path, default=BUNDLE, metavar="FOLDER")
    option("--is-healthy", action="store_true", help="ask the server at --port; exit code 0 or 1")
    return parser.parse_args(arguments)


def is_healthy(host: str, port: int) -> bool:
    """Return whether a server answers there."""
    asked = http.client.HTTPConnection(host, port, timeout=4)
    try:
        asked.request("GET", "/health")
        return asked.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        asked.close()


if __name__ == "__main__":
    raise SystemExit(main())
