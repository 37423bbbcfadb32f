"""Kill a search at ten random moments: the same command has to come to the same trials and front.

    python -m benchmarks.suites.search_kill [--trials 6] [--kills 10]

A seeded search, one candidate at a time, on scikit-learn's digits: once undisturbed, once killed
(SIGKILL to the whole process group) after a random time and started again until it ends. One that
ends before its moment counts as no kill, and the next one begins in a new folder. The objectives
are metrics that no clock has a part in, for two undisturbed searches already differ in times. Exits
1 on a difference.
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
from typing import Any

import yaml

from benchmarks.shared.running import here, parser_of, results_folder, table
from kdeploy.runtimes.run import this_machine
from kdeploy.search.front import front_trials
from kdeploy.search.trials import read_trials

OBJECTIVES = ["accuracy.top1", "size", "macs"]
BUILD = Path("models/digits/build.py:resnet").absolute()
RECIPE: dict[str, Any] = {
    "name": "killed-search",
    "data": {"name": "digits", "validation_fraction": 0.15},
    "teacher": {
        "build": str(BUILD),
        "args": {"width": 12, "depth": 1},
        "train": {"epochs": 3, "learning_rate": 0.1, "batch_size": 64},
    },
    "student": {"build": str(BUILD), "args": {"width": 8, "depth": 1}},
    "distill": {"epochs": 4, "batch_size": 64, "learning_rate": 0.1, "losses": ["kd"]},
    "compress": [{"int8_ptq": {}}],
    "bench": {"runtimes": ["onnxruntime_cpu"], "threads": [1], "minimum_seconds": 0.05},
    "search": {
        "space": {
            "student.args.width": {"choice": [4, 6, 8, 12]},
            "distill.learning_rate": {"range": [0.02, 0.2], "log": True},
            "compress.0": {"choice": [{"int8_ptq": {}}, None]},
        },
        "objectives": OBJECTIVES,
        "look": 0.25,
        "finalists": 1,
        "seeds": 1,
    },
}
# Of an undisturbed search: long enough to come to something, short enough for ten kills.
MOMENT = (0.1, 0.5)


def main() -> None:
    """Search once undisturbed, once with kills, and compare."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        started = time.perf_counter()
        code = _start(folder, "whole", arguments.trials).wait()
        seconds = time.perf_counter() - started
        moments, killed = _kill_and_search_on(arguments, folder, seconds)
        whole, shared = _outcome(folder / "whole"), _shared(folder / "whole")
        rows = [(k, v, _outcome(out).get(k)) for out in killed for k, v in whole.items()]
    text = _text(rows, moments, shared, arguments)
    print(text)
    arguments.out.write_text(text)
    sys.exit(0 if code == 0 and all(a == b for _, a, b in rows) else 1)


def _kill_and_search_on(
    arguments: argparse.Namespace, folder: Path, seconds: float
) -> tuple[list[str], list[Path]]:
    rng = random.Random(arguments.seed)
    moments: list[str] = []
    names = ["killed-1"]
    while len(moments) < arguments.kills:
        process = _start(folder, names[-1], arguments.trials)
        delay = seconds * rng.uniform(*MOMENT)
        try:
            process.wait(timeout=delay)
            names.append(f"killed-{len(names) + 1}")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            there = len(read_trials(folder / names[-1]))
            moments.append(f"{delay / seconds:.0%} ({there} trials written)")
    _start(folder, names[-1], arguments.trials).wait()
    return moments, [folder / name for name in names]


def _start(folder: Path, out: str, trials: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kdeploy", "search", str(folder / "recipe.yaml")]
    command += ["--out", str(folder / out), "--trials", str(trials)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, start_new_session=True, **quiet)  # type: ignore[call-overload,no-any-return]


def _outcome(out: Path) -> dict[str, str]:
    """Return what must not depend on being killed."""
    trials = read_trials(out)
    rows = {
        f"trial {t.number}": json.dumps(
            [t.state, t.parameters, t.short, {m: t.values.get(m) for m in OBJECTIVES}]
        )
        for t in trials
    }
    best = out / "best" / "summary.json"
    chosen = json.loads(best.read_text()) if best.is_file() else {}
    return {
        **rows,
        "front": str([t.number for t in front_trials(trials, OBJECTIVES)]),
        "best student": str(chosen.get("student")),
        "packaged": str(chosen.get("packaged")),
    }


def _shared(out: Path) -> str:
    """Return what steps took that candidates made, and what those would have that they found."""
    trials = read_trials(out)
    made = sum(sum(t.steps.values()) for t in trials)
    found = sum(t.saved_seconds for t in trials)
    return (
        f"Shared prefixes, undisturbed: the steps of {len(trials)} candidates took {made:.0f} s,"
        f" and {found:.0f} s were found in the store, {found / max(made + found, 1e-9):.0%} of what"
        " separate runs would compute (wall time of one run beside other work: only the share says"
        " something)."
    )


def _text(
    rows: list[tuple[str, str, str | None]],
    moments: list[str],
    shared: str,
    arguments: argparse.Namespace,
) -> str:
    machine = this_machine()
    lines = [
        "# A search that is killed goes on as if it had not been",
        "",
        f"{machine.cpu}, {machine.cores} cores, beside other work; {arguments.trials} trials,"
        f" seed {RECIPE['search'].get('seed', 0)}, {len(moments)} kills (SIGKILL to the process"
        " group) at shares of the undisturbed search's time:",
        f"{'; '.join(moments)}.",
        "",
        shared,
        "",
        *table(
            "what | undisturbed | the same when killed",
            [[k, f"`{a}`", "yes" if a == b else f"NO: `{b}`"] for k, a, b in rows],
        ),
        "",
        f"Command: `python -m benchmarks.suites.search_kill --trials {arguments.trials}"
        f" --kills {arguments.kills}`",
    ]
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=results_folder(here().cpu) / "search_kill.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
