"""Tell at the next start of a process that died without a word: in which step, and what to change.

While a step is made, a small file in the run's folder names it; an end, an error and Ctrl-C take
the file away. What a native library does on its last breath, Python writes beside it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from kdeploy.system.interruption import taken_along

PREFIX = ".unfinished-"
VMSTAT, BOOT = Path("/proc/vmstat"), Path("/proc/sys/kernel/random/boot_id")
CHANGES = (
    "if it happens again, set OMP_NUM_THREADS=1, or in the training `precision: fp32` and "
    "`channels_last: false`"
)
MEMORY_CHANGES = "smaller batches (`batch_size`, `accumulate`) take less"


@contextmanager
def unfinished(out: Path, step: str) -> Iterator[None]:
    """Leave word in the folder of a run, for as long as the `with` lasts, of what is being made."""
    own = out / f"{PREFIX}{os.getpid()}.json"
    is_outer = not own.exists()  # a step in a step is told as the outer one
    if is_outer:
        out.mkdir(parents=True, exist_ok=True)
        own.write_text(json.dumps({**_here(), "step": step, "threads": torch.get_num_threads()}))
    try:
        # Who asks twice to end it has not seen it die.
        with taken_along(own, own.with_suffix(".fault")), _last_words(own.with_suffix(".fault")):
            yield
    finally:
        if is_outer:
            own.unlink(missing_ok=True)


def told_of_the_dead(out: Path) -> list[str]:
    """Return a line for each process that died in the folder of a run, and forget them."""
    lines = []
    for path in sorted(out.glob(f"{PREFIX}*.json")):
        try:
            left = json.loads(path.read_text())
            is_gone = left["host"] == socket.gethostname() and not _is_alive(left)
        except (OSError, ValueError, KeyError, TypeError):  # being written, or cut off
            continue
        if is_gone:
            lines.append(_line(left, path.with_suffix(".fault")))
            for file in (path, path.with_suffix(".fault")):
                file.unlink(missing_ok=True)
    return lines


@contextmanager
def _last_words(path: Path) -> Iterator[None]:
    """Let Python write there on what signal it ended, unless it tells somebody else already."""
    if faulthandler.is_enabled():
        yield
        return
    with path.open("w") as file:
        faulthandler.enable(file, all_threads=False)
        try:
            yield
        finally:
            faulthandler.disable()
            path.unlink(missing_ok=True)


def _here() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "boot": _boot(),
        "host": socket.gethostname(),
        "out_of_memory": _out_of_memory(),
    }


def _is_alive(left: Mapping[str, Any]) -> bool:
    if left["boot"] != _boot():
        return False
    try:
        return bool(abs(psutil.Process(left["pid"]).create_time() - left["started"]) < 1)
    except psutil.NoSuchProcess:
        return False


def _line(left: Mapping[str, Any], fault: Path) -> str:
    place = f"while `{left['step']}` was made, with {left['threads']} threads"
    try:
        words = re.match(r"Fatal Python error: (.*)", fault.read_text(errors="replace"))
    except OSError:
        words = None
    if words:
        return f"the last process here died {place}: {words[1]}, in a native library; {CHANGES}"
    if left["boot"] != _boot():
        return f"the last process here ended {place}, when the machine went down"
    if _out_of_memory() > left["out_of_memory"]:
        why = "the kernel has ended processes for want of memory since"
        return f"the last process here was killed or died {place}; {why}: {MEMORY_CHANGES}"
    return f"the last process here was killed, or died without a word, {place}; {CHANGES}"


def _boot() -> str:
    try:
        return BOOT.read_text().strip()
    except OSError:
        return ""


def _out_of_memory() -> int:
    """Return how many processes the kernel has ended for want of memory since it started."""
    try:
        found = re.search(r"^oom_kill (\d+)", VMSTAT.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
