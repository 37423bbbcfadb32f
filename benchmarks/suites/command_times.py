"""How long help takes, against `python -c "import typer"`: at most 3x is the aim.

    python benchmarks/suites/command_times.py [--rounds 30] [--out FILE]

The commands take turns, so that the machine's drift falls on all; medians of whole processes.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from kdeploy.runtimes.run import this_machine

BASELINE = [sys.executable, "-c", "import typer"]
COMMANDS = {
    "kdeploy --help": ["--help"],
    "kdeploy run --help": ["run", "--help"],
    "kdeploy compress prune_channels --help": ["compress", "prune_channels", "--help"],
    "kdeploy list": ["list"],
    "kdeploy doctor": ["doctor"],
}


def main() -> None:
    """Measure all commands in turn and print their ratios to the baseline."""
    arguments = _arguments()
    entry = str(Path(sys.executable).with_name("kdeploy"))
    commands = {"import typer": BASELINE, **{n: [entry, *a] for n, a in COMMANDS.items()}}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(arguments.rounds + 1):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            times[name].append(time.perf_counter() - started)
    text = _table({name: taken[1:] for name, taken in times.items()})
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)


def _table(times: dict[str, list[float]]) -> str:
    baseline = times["import typer"]
    machine = this_machine()
    lines = [
        "# Command times",
        "",
        f"{machine.cpu}, {machine.cores} cores, Python {machine.python}; {len(baseline)} rounds,"
        " the commands in turn.",
        "",
        "| command | median | ratio to `import typer`, median of rounds |",
        "|---|---|---|",
    ]
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, baseline, strict=True))
        lines.append(f"| `{name}` | {statistics.median(taken) * 1e3:.0f} ms | {ratio:.2f} |")
    lines += ["", "Command: `python benchmarks/suites/command_times.py`"]
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, help="also write the table there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
