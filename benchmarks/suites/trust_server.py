"""Does the rate that scenario `server` found hold under another program's load.

    python benchmarks/suites/trust_server.py [--only middle] [--runs 5] [--seconds 20]

`kdeploy bench --scenario server` looks for the highest rate whose p99 stays within a limit. A
program that shares nothing with kdeploy then sends requests at that rate: one thread puts them in a
queue at the times of a Poisson process, another answers them in ONNX Runtime; a latency counts from
the scheduled time. At the rate that was found at most 1 % of all requests may be late; at a fifth
more, more than 1 % must be, or the rate was not the highest. One line a load run goes to
`rows.jsonl` in the work folder; what is there is not repeated. Takes about 25 minutes; exits 1 when
a rate does not hold, or is not the highest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.shared.running import (
    Row,
    add_row,
    conclude,
    conditions,
    grouped,
    here,
    parser_of,
    rows_of,
    table,
)
from benchmarks.shared.sized_files import write_convolutions

NETWORKS = {
    "middle": {"channels": 32, "size": 16, "layers": 16},  # about 0.7 ms
    "large": {"channels": 64, "size": 56, "layers": 24},  # about 50 ms
}
LIMITS_MS = {"middle": 15, "large": 250}
MORE = 1.2
LATE_ALLOWED = 0.01
FEWEST_REQUESTS = 2000
LOAD = """
import gc, queue, random, sys, threading, time
import numpy, onnxruntime
path, shape = sys.argv[1], [int(extent) for extent in sys.argv[2].split(",")]
rate, count, seed = float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
images = numpy.random.default_rng(seed).random((16, 1, *shape), dtype=numpy.float32)
for index in range(32):
    session.run(None, {"x": images[index % 16]})
waiting, latencies, draws = queue.SimpleQueue(), [], random.Random(seed)

def answer():
    while (due := waiting.get()) is not None:
        session.run(None, {"x": images[len(latencies) % 16]})
        latencies.append(time.monotonic() - due)

gc.disable()
server = threading.Thread(target=answer)
server.start()
due = time.monotonic() + 0.1
for _ in range(count):
    due += draws.expovariate(rate)
    time.sleep(max(0.0, due - time.monotonic()))
    waiting.put(due)
waiting.put(None)
server.join()
print(*latencies)
"""


def main() -> None:
    """Find rates, load what is missing, write the result and judge it."""
    arguments = _arguments()
    store = arguments.work / "rows.jsonl"
    arguments.work.mkdir(parents=True, exist_ok=True)
    done = {(row["network"], row["times"], row["run"]) for row in rows_of(store)}
    for name in arguments.only or NETWORKS:
        file = write_convolutions(arguments.work / f"{name}.onnx", **NETWORKS[name])
        rate = _found_rate(file, arguments.work / name)
        for run in range(arguments.runs):
            for times in (1.0, MORE):
                if (name, times, run) not in done:
                    row = _loaded(file, rate * times, run, arguments.seconds)
                    add_row(store, {"network": name, "times": times, "run": run, **row})
    rows = rows_of(store)
    cells = grouped(rows, "network", "times")
    text = _table(cells, conditions(here(), 1), arguments)
    holds = all(_holds(times, of) for (_, times), of in cells.items())
    conclude("trust_server", {"rows": rows}, text, holds=holds)


def _found_rate(file: Path, out: Path) -> float:
    """Return the rate in requests a second; an interrupted search goes on in `out`."""
    flags = ["--scenario", "server", "--latency-limit", f"{LIMITS_MS[file.stem]}ms"]
    flags += ["--runtime", "onnxruntime_cpu", "--threads", "1", "--no-accuracy", "--json"]
    command = [sys.executable, "-m", "kdeploy", "bench", str(file), *flags, "--out", str(out)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = [m for m in json.loads(answer.stdout)["measurements"] if m["metric"] == "server_rate"]
    if not found or found[0]["value"] is None:
        sys.exit(f"no rate was found: {found or answer.stdout}")
    return float(found[0]["value"])


def _loaded(file: Path, rate: float, seed: int, seconds: float) -> Row:
    """Return what came of requests at this rate, another seed a run."""
    network, limit = NETWORKS[file.stem], LIMITS_MS[file.stem] * 1e-3
    shape = f"{network['channels']},{network['size']},{network['size']}"
    count = max(FEWEST_REQUESTS, round(rate * seconds))
    command = [sys.executable, "-c", LOAD, file, shape, rate, count, seed]
    words = [str(word) for word in command]
    told = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
    latencies = sorted(float(word) for word in told.split())
    return {
        "rate": rate,
        "requests": count,
        "late": sum(latency > limit for latency in latencies),
        "p50_seconds": latencies[count // 2],
        "p99_seconds": latencies[count * 99 // 100],
        "load": here().load,
    }


def _late(rows: list[Row]) -> float:
    return sum(row["late"] for row in rows) / sum(row["requests"] for row in rows)


def _holds(times: float, rows: list[Row]) -> bool:
    return (_late(rows) <= LATE_ALLOWED) == (times == 1.0)


def _table(
    cells: dict[tuple[str, float], list[Row]], where: str, arguments: argparse.Namespace
) -> str:
    lines = [
        "# The rate of scenario `server` under another program's load",
        "",
        f"`python benchmarks/suites/trust_server.py --runs {arguments.runs} --seconds "
        f"{arguments.seconds:g}`; {where}. p50 and p99: the median run, and the range of runs.",
        "",
    ]
    header = "network | limit | rate | requests | p50 | p99 | late | asked | holds"
    rates = table(header, (_cells(*cell, of) for cell, of in cells.items()))
    return "\n".join([*lines, *rates]) + "\n"


def _cells(name: str, times: float, of: list[Row]) -> list[str]:
    said = f"{of[0]['rate']:.1f}/s" + ("" if times == 1.0 else f" ({times:g}x)")
    return [
        *(name, f"{LIMITS_MS[name]} ms", said, str(sum(row["requests"] for row in of))),
        *(_spread([row[key] * 1e3 for row in of]) for key in ("p50_seconds", "p99_seconds")),
        f"{_late(of):.2%}",
        "<= 1 %" if times == 1.0 else "> 1 %",
        "yes" if _holds(times, of) else "NO",
    ]


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ms ({min(values):.2f} to {max(values):.2f})"


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, work="trust_server", only=NETWORKS)
    parser.add_argument("--runs", type=int, default=5, help="load runs at each rate")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a load run, at least")
    return parser.parse_args()


if __name__ == "__main__":
    main()
