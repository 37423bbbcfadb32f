"""Whether kernels can be trusted with calls: asked of a process that may die of them.

What was tried once is remembered in the user's cache, for this processor, this torch and these
threads, so that it costs nothing the next time.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from kdeploy.system.process_end import named_end
from kdeploy.system.user_cache import cache_folder
from kdeploy.training import kernel_trial
from kdeploy.training.kernel_faults import known_fault

DIED, LATE = "died", "late"
PATIENCE_SECONDS = 300.0
GUARD = "libc_malloc_debug.so.0"  # glibc 2.34 and later
# What changes the kernels that the libraries choose.
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "LD_PRELOAD")
Verdict = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A call that is not to be made as it was going to be."""

    call: dict[str, Any]
    layer: str | None
    message: str
    """What it does, in a few words."""


def findings(calls: Sequence[tuple[str, str | None]], *, threads: int) -> tuple[list[Finding], int]:
    """Return what is wrong with calls, and how many had to be tried for that."""
    found, asked = [], []
    for text, layer in calls:
        call = json.loads(text)
        fault = known_fault(call, threads)
        if fault is not None:
            found.append(Finding(call=call, layer=layer, message=fault.what))
        else:
            asked.append((text, call, layer))
    memory = _memory()
    new = [text for text, _, _ in asked if memory.verdict(text, threads) is None]
    if new:
        memory.learn(_tried(new, threads), threads)
    for text, call, layer in asked:
        message = _message(call, memory.verdict(text, threads) or {})
        if message:
            found.append(Finding(call=call, layer=layer, message=message))
    return found, len(new)


def _message(call: Mapping[str, Any], verdict: Verdict) -> str:
    name = str(call["name"]).removeprefix("aten::").partition(".")[0]
    message = verdict.get("said", "")
    match verdict.get("verdict"):
        case "died":
            return f"`{name}` ends the process ({message})"
        case "late":
            return f"`{name}` does not end"
        case kernel_trial.FAILS:
            return f"`{name}` fails ({message})"
        case kernel_trial.DIFFERS:
            return f"`{name}` is wrong: {message}"
    return ""


def _tried(texts: Sequence[str], threads: int) -> dict[str, Verdict]:
    """Return what came of each call; one that dies is asked again, alone, as those before it."""
    verdicts: dict[str, Verdict] = {}
    before: list[str] = []
    for text in texts:
        verdict = _trial().ask(text, threads)
        if verdict["verdict"] == DIED and before:
            # It may have died of what an earlier one wrote: each is asked in a process of its own,
            # also those before the guilty one, which may be as guilty and only later to die.
            alone = {suspect: _alone(suspect, threads) for suspect in (text, *before)}
            is_found = any(answer["verdict"] == DIED for answer in alone.values())
            verdicts.update(alone if is_found else {**alone, text: verdict})
            before = []
            continue
        verdicts[text] = verdict
        # Three suspects: a write past the end is found by malloc within a few calls.
        before = [] if verdict["verdict"] in (DIED, LATE) else [*before, text][-3:]
    return verdicts


def _alone(text: str, threads: int) -> Verdict:
    _end_trial()
    verdict = _trial().ask(text, threads)
    _end_trial()
    return verdict


class _Trial:
    """The process that makes the calls."""

    def __init__(self) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        # -P: the folder of the file holds modules with names that others have too.
        command = [sys.executable, "-P", kernel_trial.__file__]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            # Threads that wait asleep: on a busy machine that is many times faster, and the same.
            env={**os.environ, "OMP_WAIT_POLICY": "passive", **guarded_memory()},
        )

    def ask(self, text: str, threads: int) -> Verdict:
        """Return what came of a call, also where the process died of it."""
        assert self.process.stdin is not None, "asked for as a pipe"
        assert self.process.stdout is not None, "asked for as a pipe"
        line = b""
        with suppress(BrokenPipeError):
            self.process.stdin.write(f'{{"threads": {threads}, "call": {text}}}\n'.encode())
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], PATIENCE_SECONDS)[0]:
                self.end()
                return {"verdict": LATE, "said": f"not within {PATIENCE_SECONDS:g} s"}
            line = self.process.stdout.readline()
        if line.endswith(b"\n"):
            answer: dict[str, str] = json.loads(line)
            return answer
        code = self.process.wait()
        self.end()
        return {"verdict": DIED, "said": self._end_of(code)}

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()

    def _end_of(self, code: int) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        name = named_end(code)
        return f"{name}: {lines[-1][:100]}" if lines else name


def guarded_memory() -> dict[str, str]:
    """Return the variables by which a process ends at a byte written behind the end of a block.

    Without them it is found only where it happens to hit what malloc keeps there; what is written
    further away is found by luck either way, so a call is made several times. Empty where the C
    library has no such guard, or another malloc is preloaded.
    """
    if os.environ.get("LD_PRELOAD"):
        return {}
    try:
        maps = Path("/proc/self/maps").read_text().split()
    except OSError:
        return {}
    libraries = {Path(word).parent / GUARD for word in maps if word.endswith("/libc.so.6")}
    guard = next((path for path in libraries if path.is_file()), None)
    if guard is None:
        return {}
    return {
        "LD_PRELOAD": str(guard),
        "MALLOC_CHECK_": "3",
        # What was never written is -1.7e38: a result that reads it is nowhere near.
        "MALLOC_PERTURB_": "1",
    }


_running: list[_Trial] = []


def _trial() -> _Trial:
    """Return the process, started where there is none; it ends by itself when idle."""
    if _running and _running[0].process.poll() is not None:
        _end_trial()
    if not _running:
        _running.append(_Trial())
    return _running[0]


@atexit.register
def _end_trial() -> None:
    while _running:
        trial = _running.pop()
        trial.end()
        trial.errors.close()


class _Memory:
    """Verdicts by the digest of a call, in one file for each kind of machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.verdicts = self._read()

    def verdict(self, text: str, threads: int) -> Verdict | None:
        return self.verdicts.get(_digest(text, threads))

    def learn(self, verdicts: Mapping[str, Verdict], threads: int) -> None:
        """Remember, beside what other processes have written by now."""
        own = {_digest(text, threads): verdict for text, verdict in verdicts.items()}
        self.verdicts = {**self.verdicts, **own}
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with suppress(OSError):  # a cache that cannot be written is asked in vain, no more
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps({**self._read(), **self.verdicts}))
            partial.replace(self.path)

    def _read(self) -> dict[str, Verdict]:
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        entries = found.items() if isinstance(found, dict) else ()
        return {k: v for k, v in entries if isinstance(v, dict) and "verdict" in v}


def _digest(text: str, threads: int) -> str:
    return hashlib.sha256(f"{threads} {text}".encode()).hexdigest()[:24]


@cache
def _memory() -> _Memory:
    facts = [
        torch.__version__,
        torch.__config__.show(),
        torch.backends.cpu.get_cpu_capability(),
        _processor(),
        *(os.environ.get(name, "") for name in VARIABLES),
        Path(kernel_trial.__file__).read_text(),
        str(guarded_memory()),
    ]
    name = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    return _Memory(cache_folder("kernels") / f"{name}.json")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
