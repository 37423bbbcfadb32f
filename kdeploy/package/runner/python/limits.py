"""Run a model that nobody vouches for in a process of its own, within memory and time.

A few bytes of ONNX can ask for any amount of both: `ConstantOfShape`, `Expand`, a loop. Standard
library only, Python 3.9. Where the system knows no such limits (no Unix) only time is bounded.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Ended(Exception):
    """Says why a process gave no answer."""


def answer(script: str, arguments: Sequence[str], bounds: Mapping[str, float]) -> dict[str, Any]:
    """Return the JSON object that a Python program prints; `limit` in it keeps the bounds.

    Args:
        script: The program.
        arguments: Of its command line; the bounds follow.
        bounds: `--timeout` in seconds and `--memory-limit` in MB.

    Raises:
        Ended: it was stopped, or died.
        SystemExit: it has said itself what is wrong with its input, or missing here.
    """
    told = [str(part) for bound in bounds.items() for part in bound]
    seconds, megabytes = bounds["--timeout"], bounds["--memory-limit"]
    # glibc would reserve 128 MB of addresses a thread, and the limit counts addresses.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
    command = [sys.executable, "-B", script, *arguments, *told]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, timeout=seconds, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        raise Ended(f"stopped after {seconds:g} s, the limit (--timeout)") from None
    if done.returncode in (2, 3):
        raise SystemExit(done.returncode)
    if -done.returncode == getattr(signal, "SIGXCPU", None):
        raise Ended(f"stopped at {seconds:g} s of each thread's time, the limit (--timeout)")
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        raise Ended(
            f"the model's process died ({_end(done.returncode)}); it may take {megabytes} MB "
            "(--memory-limit)"
        ) from None


def _end(code: int) -> str:
    names = {-number: number.name for number in signal.Signals}
    return names.get(code, f"code {code}")


def limit(megabytes: int, seconds: float, threads: int) -> None:
    """Bound what this process may take from now on, on top of what it has."""
    try:
        import resource
    except ImportError:  # no Unix
        return
    wanted = {resource.RLIMIT_CPU: int(seconds * threads) + 1, resource.RLIMIT_CORE: 0}
    status = Path("/proc/self/status")
    used = re.search(r"VmSize:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    if used is not None:
        wanted[resource.RLIMIT_AS] = int(used[1]) * 1024 + megabytes * 2**20
    for kind, bound in wanted.items():
        hard = resource.getrlimit(kind)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (bound, hard))


def reason(error: Exception, megabytes: int | None) -> str:
    """Return what an error of a model says, in one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    if isinstance(error, MemoryError) or re.search("alloc|memory", text, re.IGNORECASE):
        bound = f"{megabytes} MB" if megabytes else "there is"
        return f"the model takes more memory than {bound} (--memory-limit): {text}"
    return text
