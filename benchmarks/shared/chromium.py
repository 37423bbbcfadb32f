"""Drive a headless Chromium over a pipe, by its DevTools protocol: no driver, no socket.

https://chromedevtools.github.io/devtools-protocol/: with `--remote-debugging-pipe` the browser
reads commands from file descriptor 3 and writes answers and events to 4, as JSON ended by a zero
byte.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-extensions", "--disable-background-networking", "--remote-debugging-pipe"),
)
# Where the browser looks for its two pipes.
COMMANDS, ANSWERS = 3, 4
LIMIT_SECONDS = 300


def program() -> str | None:
    """Return the browser of this machine, None without one."""
    return shutil.which("chromium") or shutil.which("google-chrome")


class Page:
    """One page of a browser; `problems` are what the console and the page's errors said."""

    def __init__(self, commands: Any, answers: Any) -> None:
        self.commands, self.answers = commands, answers
        self.problems: list[str] = []
        self.session: str | None = None
        self._count = 0
        self._events: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def open(self, file: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Show a file at a size in pixels and wait until it is loaded."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self._ask("Emulation.setDeviceMetricsOverride", **size, mobile=width < 640)
        self.problems.clear()
        # Another page first, so that only the address after `#` does not keep the old one.
        for url in ("about:blank", file.resolve().as_uri()):
            self._events.clear()
            self._ask("Page.navigate", url=url)
            while "Page.loadEventFired" not in self._events:
                self._hear()

    def run(self, script: str) -> Any:
        """Return what an expression is in the page, as JSON has it."""
        how = {"returnByValue": True, "awaitPromise": True}
        answer = self._ask("Runtime.evaluate", expression=script, **how)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def screenshot(self, file: Path) -> None:
        """Keep the whole page as a PNG."""
        taken = self._ask("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        file.write_bytes(base64.b64decode(taken["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self.commands.write(json.dumps(message).encode() + b"\0")
        self.commands.flush()
        while (answer := self._hear()).get("id") != self._count:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _hear(self) -> dict[str, Any]:
        text = b"".join(iter(lambda: self.answers.read(1).rstrip(b"\0"), b""))
        if not text:
            raise RuntimeError("the browser is gone")
        message: dict[str, Any] = json.loads(text)
        method = message.get("method", "")
        self._events.append(method)
        if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.problems.append(json.dumps(message["params"]))
        return message


@contextlib.contextmanager
def opened() -> Iterator[Page]:
    """Yield a page of a browser that ends with the block."""
    found = program()
    if found is None:
        raise RuntimeError("no chromium on this machine; hint: apt install chromium")
    to_browser, from_browser = os.pipe(), os.pipe()
    ends = {COMMANDS: to_browser[0], ANSWERS: from_browser[1]}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = _started([found, *FLAGS, f"--user-data-dir={profile}"], ends)
        # A browser that hangs is ended, and the page says that it is gone.
        limit = threading.Timer(LIMIT_SECONDS, _ended, (browser,))
        limit.daemon = True
        limit.start()
        try:
            with (
                os.fdopen(to_browser[1], "wb") as commands,
                os.fdopen(from_browser[0], "rb") as answers,
            ):
                yield Page(commands, answers)
        finally:
            limit.cancel()
            _ended(browser)
            os.waitpid(browser, 0)


def _started(command: list[str], ends: dict[int, int]) -> int:
    """Start a process in a session of its own with these descriptors, which are closed here."""
    # First out of the way: the numbers wanted may be those of the other pipe here.
    high = {wanted: fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 64) for wanted, end in ends.items()}
    quiet = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in (0, 1, 2)]
    moved = [(os.POSIX_SPAWN_DUP2, end, wanted) for wanted, end in high.items()]
    process = os.posix_spawn(
        command[0], command, os.environ, file_actions=[*quiet, *moved], setsid=True
    )
    for end in (*ends.values(), *high.values()):
        os.close(end)
    return process


def _ended(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
