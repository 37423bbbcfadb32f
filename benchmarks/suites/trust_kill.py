"""Kill a benchmark again and again: nothing is lost, nothing is measured twice.

    python benchmarks/suites/trust_kill.py [--cells 200] [--every 20]

`kdeploy bench` of fake files (a runtime that sleeps) in as many cells as asked, each a file at a
batch size. Whenever `--every` more cells are finished, the whole process group gets SIGKILL and the
same command is started again, until one ends. Starts are counted from the run's own log: a cell
that was finished at a kill may never start again. Takes about 6 minutes; the folder is removed
first. Prints a markdown table; exits 1 when a check fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.shared.running import conclude, here, parser_of, table
from kdeploy.measurement import read, select

FILES = 10
POLL_SECONDS = 0.02
WARMS_UP = " warms up"


@dataclass(slots=True, kw_only=True)
class Seen:
    """What happened over all starts of the command."""

    kills: int = 0
    starts: Counter[str] = field(default_factory=Counter)
    """Of each cell."""
    again: list[str] = field(default_factory=list)
    """Cells that were finished at a kill, and started after it."""
    lost: list[str] = field(default_factory=list)
    """Cells that were finished at a kill, and not there at the end."""
    seconds: float = 0.0


def main() -> None:
    """Run to the end through all kills, then check."""
    arguments = _arguments()
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    sizes = range(1, arguments.cells // FILES + 1)
    files = [arguments.work / f"file{index}.onnx" for index in range(FILES)]
    for index, file in enumerate(files):
        file.write_text(json.dumps({"latency_seconds": 0.0002, "seed": index}))
    out = arguments.work / "out"
    seen = _killed_again_and_again(_command(files, sizes, out), out, arguments)
    checks = _checks(seen, out, arguments.cells)
    holds = all(passed for passed, _ in checks.values())
    conclude("trust_kill", {"checks": checks}, _table(seen, checks, arguments), holds=holds)


def _command(files: list[Path], sizes: range, out: Path) -> list[str]:
    flags = [f"--batch-size={size}" for size in sizes]
    flags += ["--runtime=fake", "--threads=1", "--seconds=0.05", "--data=digits", "--no-accuracy"]
    names = [str(file) for file in files]
    return [sys.executable, "-m", "kdeploy", "bench", *names, *flags, "--out", str(out)]


def _killed_again_and_again(command: list[str], out: Path, arguments: argparse.Namespace) -> Seen:
    seen, finished, started = Seen(), dict[str, str](), time.perf_counter()
    while True:
        logged = len(_log(out))
        stop_at = len(finished) + arguments.every
        process = _start(command, arguments.work / "printed.txt")
        was_killed = _kill_at(process, out, stop_at)
        begun = [line for line in _log(out)[logged:] if WARMS_UP in line]
        cells = [json.loads(line)["text"].removesuffix(WARMS_UP) for line in begun]
        seen.starts.update(cells)
        seen.again += [cell for cell in cells if cell in finished]
        after = _finished(out)
        seen.lost += [cell for cell, when in finished.items() if after.get(cell) != when]
        finished = after
        seen.seconds = time.perf_counter() - started
        if not was_killed:
            if process.returncode:
                sys.exit((arguments.work / "printed.txt").read_text())
            return seen
        seen.kills += 1


def _start(command: list[str], printed: Path) -> subprocess.Popen[bytes]:
    with printed.open("wb") as file:
        return subprocess.Popen(command, start_new_session=True, stdout=file, stderr=file)


def _kill_at(process: subprocess.Popen[bytes], out: Path, stop_at: int) -> bool:
    """Kill the process and all its children once so many cells are finished; False: it ended."""
    while process.poll() is None:
        if len(_finished(out)) >= stop_at:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(POLL_SECONDS)
    return False


def _finished(out: Path) -> dict[str, str]:
    """Return when each finished cell was measured, by its name in the log."""
    found = {}
    for file in (out / "artifacts" / ".work" / "bench").glob("[0-9a-f]*/group.json"):
        facts = json.loads(file.read_text())
        found[f"{facts['cell']}: {facts['subjects'][0]}"] = str(facts["created"])
    return found


def _log(out: Path) -> list[str]:
    file = out / "log.jsonl"
    # A line that a kill has cut off has no end.
    return file.read_text().split("\n")[:-1] if file.is_file() else []


def _checks(seen: Seen, out: Path, cells: int) -> dict[str, tuple[bool, str]]:
    """Return each check: whether it passed, and what was found."""
    records = select(read(out), "latency.p50")
    distinct = {(r.label, r.runtime, r.batch_size, r.threads) for r in records}
    more = sum(seen.starts.values()) - cells
    report = (out / "report.md").read_text()
    torn = list((out / "artifacts" / ".work").rglob(".partial-*"))
    return {
        "cells in measurements.jsonl, each once": (
            len(records) == len(distinct) == cells and all(r.value for r in records),
            f"{len(records)} records of {len(distinct)} cells",
        ),
        "finished at a kill, then lost or made anew": (not seen.lost, str(len(seen.lost))),
        "finished at a kill, then measured again": (not seen.again, str(len(seen.again))),
        "starts more than cells, at most one a kill": (0 <= more <= seen.kills, str(more)),
        "files in the report": (
            all(f"file{index}" in report for index in range(FILES)),
            f"{sum(f'file{index}' in report for index in range(FILES))} of {FILES}",
        ),
        "half-written folders, at most one a kill": (len(torn) <= seen.kills, str(len(torn))),
    }


def _table(seen: Seen, checks: dict[str, tuple[bool, str]], arguments: argparse.Namespace) -> str:
    machine = here()
    lines = [
        "# A benchmark that is killed again and again",
        "",
        f"`python benchmarks/suites/trust_kill.py --cells {arguments.cells} --every "
        f"{arguments.every}`; {machine.cpu}, {machine.cores} cores. {arguments.cells} cells of "
        f"the fake runtime, SIGKILL to the process group {seen.kills} times, {seen.seconds:.0f} s.",
        "",
    ]
    cells = ([name, said, "yes" if ok else "NO"] for name, (ok, said) in checks.items())
    return "\n".join([*lines, *table("check | found | holds", cells)]) + "\n"


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, work="trust_kill")
    parser.add_argument("--cells", type=int, default=200, help=f"a multiple of {FILES}")
    parser.add_argument("--every", type=int, default=20, help="cells between kills")
    arguments = parser.parse_args()
    if arguments.cells % FILES:
        parser.error(f"--cells is not a multiple of {FILES}")
    return arguments


if __name__ == "__main__":
    main()
