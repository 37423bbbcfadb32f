"""What the two runners of a bundle take: memory, cold start, latency; and what the bundle weighs.

    python benchmarks/suites/bundle_runners.py [BUNDLE] [--rounds 5]

BUNDLE is that of the demo, `runs/demo/bundle` (`make demo`), unless another is named. Both runners
are those of this kdeploy, with one thread; the one in C++ is built here. They take turns, so that
a busy machine meets both: of a round each has one self-test (peak memory, p50) and ten starts from
nothing to the first answer. Reported are the median of the peaks, the least of the p50s, and the
least processor and wall time of a start. Exits 1 where Python takes more than 64 MB or C++ more
than 32 MB, or C++ takes longer than Python (p50).
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared.running import conclude, conditions, here, parser_of, table
from kdeploy.package.kinds import write_runner
from kdeploy.package.publish import write_zip
from tests.package.runner.cpp import built

STARTS = 10
MOST_BYTES = {"Python": 64e6, "C++": 32e6}
Command = list[str]


def main() -> None:
    """Measure both in turns, write the result and judge it."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("runs/demo/bundle"))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if not (given.bundle / "manifest.json").is_file():
        sys.exit(f"there is no bundle {given.bundle}\n\nhint: make demo, or name another")
    if built.missing():
        sys.exit(f"skipped: the runner in C++ cannot be built here\n\nhint: {built.missing()}")
    with tempfile.TemporaryDirectory() as folder:
        runners = _runners(Path(folder))
        item = _item(given.bundle, Path(folder) / "item.npy")
        found = _measured(runners, given.bundle, item, given.rounds)
        sizes = _sizes(given.bundle, Path(folder))
    text = _page(found, sizes, given.rounds)
    holds = all(found[name]["peak_memory"] <= most for name, most in MOST_BYTES.items())
    holds &= found["C++"]["latency.p50"] <= found["Python"]["latency.p50"]
    conclude("bundle_runners", {"runners": found, "sizes": sizes}, text, holds=holds)


def _runners(folder: Path) -> dict[str, Command]:
    python = write_runner(folder / "runner", "onnx")
    program = built.program(("-DCMAKE_BUILD_TYPE=Release",))
    return {"Python": [sys.executable, "-B", str(python)], "C++": [str(program)]}


def _item(bundle: Path, path: Path) -> Path:
    """Write one item as the data set stores it."""
    shape = json.loads((bundle / "manifest.json").read_text())["preprocessing"]["shape"]
    np.save(path, np.zeros(shape, np.uint8))
    return path


def _measured(
    runners: dict[str, Command], bundle: Path, item: Path, rounds: int
) -> dict[str, dict[str, float]]:
    tests: dict[str, list[dict[str, Any]]] = {name: [] for name in runners}
    starts: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, command in runners.items():
            tests[name].append(_self_test([*command, "--bundle", str(bundle)], name))
        for _ in range(STARTS):
            for name, command in runners.items():
                call = [*command, "--bundle", str(bundle), "--threads", "1", str(item)]
                starts[name].append(_timed(lambda call=call: _run(call)))
    return {
        name: {
            "peak_memory": statistics.median(t["peak_memory"] for t in tests[name]),
            "latency.p50": min(t["latency.p50"] for t in tests[name]),
            "load_time": min(t["load_time"] for t in tests[name]),
            "start_processor_seconds": min(cpu for cpu, _ in starts[name]),
            "start_wall_seconds": min(wall for _, wall in starts[name]),
        }
        for name in runners
    }


def _self_test(command: Command, name: str) -> dict[str, Any]:
    # In C++ a folder behind --self-test is the bundle; both know --bundle.
    report = json.loads(_run([*command, "--self-test", "--json", "--threads", "1"]))
    if not report["passed"]:
        sys.exit(f"{name} fails the self-test: {report['checks']}")
    return dict(report["measured"])


def _run(command: Command) -> bytes:
    return subprocess.run(command, capture_output=True, check=True).stdout


def _timed(function: Callable[[], object]) -> tuple[float, float]:
    """Return the processor and wall seconds of a function's child processes."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    function()
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, wall


def _sizes(bundle: Path, folder: Path) -> dict[str, int]:
    files = [path for path in bundle.rglob("*") if path.is_file()]
    sources = [path for path in files if (bundle / "runner") in path.parents]
    copy = shutil.copytree(bundle, folder / "copy")
    return {
        "folder": sum(path.stat().st_size for path in files),
        "without the runners": sum(p.stat().st_size for p in files if p not in sources),
        "zip": write_zip(copy, folder / "bundle.zip").stat().st_size,
    }


def _page(found: dict[str, dict[str, float]], sizes: dict[str, int], rounds: int) -> str:
    rows = [
        [
            name,
            f"{one['peak_memory'] / 1e6:.1f} MB",
            f"{one['latency.p50'] * 1e6:.1f} us",
            f"{one['start_processor_seconds'] * 1e3:.0f} ms",
            f"{one['start_wall_seconds'] * 1e3:.0f} ms",
        ]
        for name, one in found.items()
    ]
    header = "runner | peak memory | p50 | start to answer, processor | the same, wall"
    lines = [
        "# The two runners of a bundle",
        "",
        *table(header, rows, right=(1, 2, 3, 4)),
        "",
        "The bundle: " + ", ".join(f"{n} {size / 1e3:.0f} kB" for n, size in sizes.items()) + ".",
        f"{rounds} rounds in turns, {STARTS} starts each; peaks are medians, times the least.",
        "",
        conditions(here(), 1),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
