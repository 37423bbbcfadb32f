"""Kill the demo at ten random moments: the rerun must end in the same artefacts and accuracy.

    python benchmarks/suites/kill_resume.py [--recipe models/digits/recipe.yaml] [--kills 10]

One undisturbed run first, then one that is killed (SIGKILL to the whole process group) after a
random time and started again, over one store, until it completes. A run that ends before its moment
counts as no kill: the next one begins in a new folder, until there were as many kills as asked.
Prints a markdown table; exits 1 on a difference.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kdeploy.runtimes.run import this_machine

# The first seconds go to imports and checks; a longest of half a minute leaves work for ten kills.
DELAY_SECONDS = (4.0, 30.0)


def main() -> None:
    """Run once undisturbed, once with kills, and compare."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole")
        started = time.perf_counter()
        _start(arguments.recipe, whole).wait()
        seconds = time.perf_counter() - started
        moments, folders = _kill_and_rerun(arguments, Path(folder))
        rows = [row for killed in folders for row in _compare(_outcome(whole), _outcome(killed))]
        torn = [str(p) for out in folders for p in (out / "artifacts").glob(".partial-*")]
    text = _table(rows, seconds, moments, torn)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)
    sys.exit(0 if all(a == b for _, a, b in rows) and not torn else 1)


def _kill_and_rerun(arguments: argparse.Namespace, folder: Path) -> tuple[list[str], list[Path]]:
    """Kill at random moments, then let the last run end; return the moments and the folders."""
    rng = random.Random(arguments.seed)
    moments: list[str] = []
    folders = [folder / "killed-1"]
    while len(moments) < arguments.kills:
        process = _start(arguments.recipe, folders[-1])
        delay = rng.uniform(*DELAY_SECONDS)
        try:
            process.wait(timeout=delay)
            folders.append(folder / f"killed-{len(folders) + 1}")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            moments.append(f"{delay:.1f} s ({_stage(folders[-1])})")
    _start(arguments.recipe, folders[-1]).wait()
    return moments, folders


def _start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kdeploy", "run", str(recipe), "--out", str(out)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, start_new_session=True, **quiet)  # type: ignore[call-overload,no-any-return]


def _stage(out: Path) -> str:
    log = out / "log.jsonl"
    if not log.is_file():
        return "checking"
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    events = [e for e in lines if e["event"] in ("stage_started", "epoch")]
    if not events:
        return "beginning"
    last = events[-1]
    return last.get("label") or f"{last['name']}, epoch {last['epoch']}"


def _outcome(out: Path) -> dict[str, object]:
    """Return what must not depend on being killed: ids of all steps, accuracy of all files."""
    summary = json.loads((out / "summary.json").read_text())
    records = [json.loads(line) for line in (out / "measurements.jsonl").read_text().splitlines()]
    ids = {
        f"id of {s['stage']} {s['label']}": s["artifact"]
        for s in summary["stages"]
        # A bundle's id follows from the choice, and that from measured times.
        if s["stage"] not in ("bench", "package")
    }
    accuracy = {
        f"accuracy.top1 of {r['label']} in {r['runtime']}": r["value"]
        for r in records
        if r["metric"] == "accuracy.top1"
    }
    return {**ids, **accuracy}


def _compare(
    whole: dict[str, object], killed: dict[str, object]
) -> list[tuple[str, object, object]]:
    return [(name, value, killed.get(name)) for name, value in whole.items()]


def _table(
    rows: list[tuple[str, object, object]], seconds: float, moments: list[str], torn: list[str]
) -> str:
    machine = this_machine()
    lines = [
        "# Killed at random moments",
        "",
        f"{machine.cpu}, {machine.cores} cores; an undisturbed run took {seconds:.0f} s.",
        f"Killed {len(moments)} times, at: {'; '.join(moments)}.",
        f"Half-written artefacts left: {len(torn)}.",
        "",
        "| what | undisturbed | killed and rerun | same |",
        "|---|---|---|---|",
        *(f"| {n} | {a} | {b} | {'yes' if a == b else 'NO'} |" for n, a, b in rows),
        "",
        "Command: `python benchmarks/suites/kill_resume.py`",
    ]
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=Path("models/digits/recipe.yaml"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the table there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
