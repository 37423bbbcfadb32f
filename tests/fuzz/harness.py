"""Try mutants one by one, each in a process of its own with limits, and count what became of them.

A kind gives `mutants(seed, count)`: pairs of a name and a document, and `read(document)`, which
raises a `KdeployError` for what it refuses and returns for what it takes; `read.has_own_limits`
where it starts a program that must not inherit ours. A document that must not
be taken says so: `must_be_refused`. Processes are forked from one that has imported all libraries
and run none of them: a mutant costs milliseconds.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import resource
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdeploy.package.runner.python import limits

MOST_BYTES = 10**9
SECONDS = 20.0
OUTCOMES = ("refused", "taken", "traceback", "accepted change", "hang", "memory")
FAULTS = OUTCOMES[2:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one mutant; `peak_bytes` is what its process needed beyond the one it left."""

    name: str
    outcome: str
    detail: str
    seconds: float
    peak_bytes: int


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of all mutants of a kind."""

    kind: str
    outcomes: list[Outcome] = field(default_factory=list)
    wall_seconds: float = 0.0

    def count(self, outcome: str) -> int:
        return Counter(o.outcome for o in self.outcomes)[outcome]

    @property
    def faults(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.outcome in FAULTS]

    def row(self) -> str:
        """Return the tally as a row of a Markdown table."""
        peak = max((o.peak_bytes for o in self.outcomes), default=0)
        slowest = max((o.seconds for o in self.outcomes), default=0.0)
        counts = " | ".join(str(self.count(o)) for o in OUTCOMES)
        return (
            f"| {self.kind} | {len(self.outcomes)} | {counts} | {peak / 1e6:.0f} MB "
            f"| {slowest:.1f} s | {self.wall_seconds:.0f} s |"
        )


HEADER = (
    "| kind | mutants | " + " | ".join(OUTCOMES) + " | most memory | slowest | all |\n"
    "|---|" + "---|" * (len(OUTCOMES) + 4)
)


def tried(
    kind: str,
    mutants: Iterator[tuple[str, Any]],
    read: Callable[[Any], None],
    *,
    keep: Path | None = None,
    until: float = float("inf"),
) -> Tally:
    """Return what became of each mutant; what failed is pickled to `keep`."""
    tally, started = Tally(kind=kind), time.monotonic()
    gc.collect()
    gc.freeze()  # children would copy every page that a collection touches
    for name, document in mutants:
        if time.monotonic() > until:
            break
        outcome = _outcome(name, document, read)
        tally.outcomes.append(outcome)
        if outcome.outcome in FAULTS and keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            stem = f"{kind}-{len(tally.outcomes)}"
            (keep / f"{stem}.pickle").write_bytes(pickle.dumps(document))
            (keep / f"{stem}.txt").write_text(
                f"{outcome.outcome}: {name}\n{outcome.detail}\n", errors="backslashreplace"
            )
    tally.wall_seconds = time.monotonic() - started
    return tally


def _outcome(name: str, document: Any, read: Callable[[Any], None]) -> Outcome:
    folder = tempfile.mkdtemp(prefix="kdeploy-fuzz-")
    started = time.monotonic()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _in_child(document, read, writer, folder)
    os.close(writer)
    said, is_late = _said(reader, started + SECONDS)
    os.close(reader)
    if is_late:
        os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    shutil.rmtree(folder, ignore_errors=True)
    inherited, _, said = said.partition(b"\n")
    peak = max(0, usage.ru_maxrss * 1024 - int(inherited or 0))
    verdict, _, detail = said.decode(errors="replace").partition("\n")
    if is_late:
        verdict, detail = "hang", f"no answer after {SECONDS:g} s"
    elif not said:
        verdict, detail = "traceback", f"the process died with status {status}"
    elif verdict == "taken" and getattr(document, "must_be_refused", False):
        verdict = "accepted change"
    elif peak > MOST_BYTES:
        verdict, detail = "memory", f"{peak} bytes ({verdict}: {detail})"
    seconds = time.monotonic() - started
    return Outcome(name=name, outcome=verdict, detail=detail, seconds=seconds, peak_bytes=peak)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _said(reader: int, until: float) -> tuple[bytes, bool]:
    said = b""
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return said, True
        piece = os.read(reader, 1 << 16)
        if not piece:
            return said, False
        said += piece


def _in_child(document: Any, read: Callable[[Any], None], writer: int, folder: str) -> None:
    from kdeploy.errors import KdeployError

    try:
        os.setpgid(0, 0)
        os.write(writer, b"%d\n" % _resident_bytes())  # less than in the parent: no shared files
        if not getattr(read, "has_own_limits", False):
            _limit()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        os.chdir(folder)
        tempfile.tempdir = folder
        try:
            read(document)
            said = "taken"
        except KdeployError as error:
            is_whole = bool(error.message.strip()) and len(str(error)) < 10_000
            said = (
                f"refused\n{error}" if is_whole else f"traceback\nno message for people: {error!r}"
            )
        except SystemExit as end:
            said = f"refused\ncode {end.code}"
        except BaseException:
            said = f"traceback\n{traceback.format_exc()[-4000:]}"
        os.write(writer, said.encode(errors="backslashreplace"))
    finally:
        os._exit(0)


def apart(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a function gives in a process of its own, as commands run a model.

    Raises:
        Ended: the process died.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, json.dumps(function()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    try:
        return dict(json.loads(said))
    except ValueError:
        raise limits.Ended(f"the process died with status {status}") from None


def _limit() -> None:
    """Let a mutant be found out, and not take the machine with it."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    bounds = {resource.RLIMIT_AS: size + 3 * 10**9, resource.RLIMIT_CORE: 0}
    for kind, bound in bounds.items():
        resource.setrlimit(kind, (bound, bound))
