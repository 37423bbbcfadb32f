"""The way to a device: OpenSSH's `ssh`, whatever it takes to get through, and why it does not.

The user's own configuration holds; nothing is asked (BatchMode) and no check is turned off. All
requests share one connection, which ends with the link.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import IO, Any, Self

from kdeploy.bench.ssh.device.commands import MARK
from kdeploy.bench.ssh.hosts import Host
from kdeploy.bench.ssh.ssh_errors import Unreachable, of_answer, of_program, of_ssh
from kdeploy.system.temporary import temporary_folder

COMMAND = "KDEPLOY_SSH_COMMAND"
OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ControlMaster": "auto",
    "ControlPersist": "60",
}
LOOK_SECONDS = 0.2  # how soon Ctrl-C is heeded while nothing comes
PIECE_BYTES = 1 << 20
Json = dict[str, Any]


class LinkInterrupted(Exception):
    """The user wants no more of it."""


class Link:
    """Requests to one host."""

    def __init__(self, host: Host, *, stopping: Event) -> None:
        self.host = host
        self.program = ""
        """Where the runner lies on the device."""
        self._stopping = stopping

    def __enter__(self) -> Self:
        # Short, because a socket's path may have 104 characters.
        self._kept = ExitStack()
        self._folder = self._kept.enter_context(temporary_folder("ssh", place=Path("/tmp")))
        own = {**OPTIONS, "ControlPath": str(self._folder / "link")}
        self._ssh = [
            *shlex.split(os.environ.get(COMMAND, "ssh")),
            *(f"-o{key}={value}" for key, value in own.items()),
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if (self._folder / "link").exists():
            closing = [*self._ssh, "-O", "exit", self.host.name]
            with suppress(subprocess.TimeoutExpired):  # it ends by itself a minute later
                subprocess.run(closing, capture_output=True, timeout=30, check=False)
        self._kept.close()

    def boot(self, job: str, *, source: bytes, runner: bytes) -> None:
        """Put the runner on the device, into the folder of a job."""
        receiver = f"import sys;exec(sys.stdin.buffer.read({len(source)}))"
        command = [self.host.python, "-I", "-c", receiver, job, self.host.folder]
        self.program = str(self._only_reply(command, stdin=source + runner)["program"])

    def stop(self) -> None:
        """End the job on the device and remove its folder, whatever the user wants meanwhile."""
        self._stopping = Event()
        self.ask("stop")

    def ask(self, *request: str, stdin: bytes | IO[bytes] = b"") -> Json:
        """Return the reply of the runner.

        Raises:
            Unreachable: the connection failed, and may work a moment later.
            Unavailable: it will not.
            LinkInterrupted: the user wants no more.
        """
        return self._only_reply([self.host.python, self.program, *request], stdin=stdin)

    def listen(self, *request: str, hear: Callable[[Json], None]) -> Json:
        """Return the reply, after `hear` was called with every line before it."""
        with self._answers([self.host.python, self.program, *request], b"") as answers:
            for answer in answers:
                if "reply" in answer or "error" in answer:
                    return of_answer(answer, self.host)
                hear(answer)
        raise Unreachable("the device stopped answering")

    def _only_reply(self, command: list[str], *, stdin: bytes | IO[bytes]) -> Json:
        with self._answers(command, stdin) as answers:
            for answer in answers:
                return of_answer(answer, self.host)
        raise Unreachable("the device gave no answer")

    @contextmanager
    def _answers(self, command: list[str], stdin: bytes | IO[bytes]) -> Iterator[Iterator[Json]]:
        """Run a command there; yield its answers as they come, and tell how it failed."""
        line = [*self._ssh, "--", self.host.name, shlex.join(command)]
        with ExitStack() as stack:
            # A file, because the process that keeps the connection holds it open.
            told = stack.enter_context(tempfile.TemporaryFile(dir=self._folder))
            if isinstance(stdin, bytes):
                source: IO[bytes] = stack.enter_context(tempfile.TemporaryFile(dir=self._folder))
                source.write(stdin)
                source.seek(0)
            else:
                source = stdin
            try:
                process = subprocess.Popen(
                    line,
                    stdin=source,
                    stdout=subprocess.PIPE,
                    stderr=told,
                    start_new_session=True,  # Ctrl-C is ours: the device is cleaned up first
                )
            except OSError as error:
                raise of_program(line[0], error) from None
            stack.callback(_end, process)
            yield self._lines(process, told)

    def _lines(self, process: subprocess.Popen[bytes], told: IO[bytes]) -> Iterator[Json]:
        assert process.stdout is not None, "started without a pipe"
        buffer = bytearray()
        while piece := self._piece(process.stdout):
            buffer += piece
            if b"\n" not in piece:  # a result is one long line
                continue
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                if line.startswith(MARK.encode()):
                    yield json.loads(line[len(MARK) :])
        code = process.wait()
        told.seek(0)
        raise of_ssh(code, told.read().decode(errors="replace"), self.host)

    def _piece(self, source: IO[bytes]) -> bytes:
        """Wait for the next bytes, empty at the end."""
        while not select.select([source], [], [], LOOK_SECONDS)[0]:
            if self._stopping.is_set():
                raise LinkInterrupted
        return os.read(source.fileno(), PIECE_BYTES)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None, "started without a pipe"
    process.kill()
    process.wait()
    process.stdout.close()
