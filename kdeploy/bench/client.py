"""The parent's side of a worker: start it, ask, wait blocked, and say why it failed.

Also runs on devices, where Python may be 3.9.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kdeploy.errors import KdeployError
from kdeploy.system.process_end import named_end

if TYPE_CHECKING:
    from typing import Self

MODULE = "kdeploy.bench.worker"
NO_REASON = "without a word"
# Adds nothing to the paths below; older Pythons do not know it.
SAFE_PATH = ("-P",) if sys.version_info >= (3, 11) else ()


class WorkerFailed(KdeployError):
    """A child that died, did not answer in time, or answered with an error."""


class Worker:
    """A child process that is alive between `with` and its end, or until it fails."""

    def __init__(self, folder: Path, *, timeout_seconds: float, module: str = MODULE) -> None:
        """Prepare a worker.

        Args:
            folder: Where what it prints is kept.
            timeout_seconds: How long any one answer may take.
            module: What runs in the child.
        """
        self._module = module
        self._printed = folder / "printed.txt"
        self._timeout_seconds = timeout_seconds
        self._buffer = b""

    def __enter__(self) -> Self:
        self._replies, writing = os.pipe()
        # The child finds what this process finds, wherever it was started.
        paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        options = (*SAFE_PATH, "-X", "faulthandler", "-m", self._module)
        command = [sys.executable, *options, str(writing)]
        self._started = time.monotonic()
        try:
            with self._printed.open("wb") as printed:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=printed,
                    stderr=printed,
                    pass_fds=[writing],
                    env={**os.environ, "PYTHONPATH": paths},
                )
        finally:
            os.close(writing)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        os.close(self._replies)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked more: an error is an answer, the end of a process is none."""
        return self._process.poll() is None

    @property
    def age_seconds(self) -> float:
        """Return how long ago the process was started, its start included."""
        return time.monotonic() - self._started

    def ask(self, request: Mapping[str, Any], *, expected_seconds: float = 0.0) -> dict[str, Any]:
        """Return the reply.

        Args:
            request: What is asked.
            expected_seconds: What it takes anyway: the timeout counts from there.

        Raises:
            WorkerFailed: with the reason as its message.
        """
        assert self._process.stdin is not None, "started without a pipe"
        try:
            self._process.stdin.write(json.dumps(dict(request)).encode() + b"\n")
            self._process.stdin.flush()
            answer = json.loads(self._line(self._timeout_seconds + expected_seconds))
        except BrokenPipeError:
            raise WorkerFailed(self._end()) from None
        if "error" in answer:
            raise WorkerFailed(str(answer["error"]))
        reply: dict[str, Any] = answer["reply"]
        return reply

    def close(self) -> None:
        """End the child: it holds nothing that is worth waiting for."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # a request that it never read
                self._process.stdin.close()

    def _line(self, timeout_seconds: float) -> bytes:
        """Wait for one line; the kernel wakes this process, which uses no time meanwhile."""
        deadline = time.monotonic() + timeout_seconds
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._replies], [], [], left)[0]:
                self.close()
                raise WorkerFailed(f"timeout: no answer within {timeout_seconds:g} s")
            piece = os.read(self._replies, 65536)
            if not piece:
                raise WorkerFailed(self._end())
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _end(self) -> str:
        """Return how a child ended that closed its side."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.close()
            return "the worker closed its replies and went on running"
        if code >= 0:
            return f"the worker ended with {named_end(code)}: {self._last_words()}"
        if -code == signal.SIGKILL:
            return "killed (SIGKILL), as the kernel does when memory runs out"
        return f"crashed ({named_end(code)}): {self._last_words()}"

    def _last_words(self) -> str:
        lines = self._printed.read_text(errors="replace").split("\n")
        told = [line.strip() for line in lines if line.strip()]
        fatal = [line for line in told if line.startswith(("Fatal", "terminate called"))]
        return (fatal or told or [NO_REASON])[-1][:300]
