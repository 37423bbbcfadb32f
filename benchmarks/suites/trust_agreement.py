"""Does a latency agree with a loop written by hand and with the runtimes' own tools.

    python benchmarks/suites/trust_agreement.py [--only small] [--repeats 10] [--seconds 5]

Three networks of about 30 us, 0.7 ms and 50 ms, in ONNX Runtime and OpenVINO, on one core that
all share. In every repeat each way of measuring takes its turn, in a process of its own, the order
turned around each time:

- kdeploy: `bench` of one file;
- loop: a script of a dozen lines with the same session options, times one by one;
- tool: `onnxruntime.tools.onnxruntime_test` (it tells only the mean; `onnxruntime_perf_test` is not
  in the wheel), or OpenVINO's `benchmark_app` (median).

A ratio is of one repeat: kdeploy / the other, of p50 where both have it, else of the mean. The p50
must be within 2 % of the loop's. Overhead is what kdeploy's timing loop adds to an inference,
measured on one that does nothing. One line a repeat goes to `rows.jsonl` in the work folder; what
is there is not repeated. Takes about 25 minutes; exits 1 when a p50 is not within 2 %.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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
from kdeploy.bench import measure, stats
from kdeploy.bench.inputs import write_pool
from kdeploy.bench.plan import Plan
from kdeploy.bench.run import ModelUnderTest, bench

NETWORKS = {
    "small": {"channels": 8, "size": 8, "layers": 10},
    "middle": {"channels": 32, "size": 16, "layers": 16},
    "large": {"channels": 64, "size": 56, "layers": 24},
}
RUNTIMES = ("onnxruntime_cpu", "openvino")
TOOLS = {"onnxruntime_cpu": "onnxruntime_test", "openvino": "benchmark_app"}
BOUND = 0.02
WARM_UP_SECONDS = 0.5
Times = dict[str, float]

OPEN = {
    "onnxruntime_cpu": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
run = lambda batch: session.run(None, {"x": batch})[0]
""",
    "openvino": """
import openvino
settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32"}
core = openvino.Core()
request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
def run(batch):  # `first(request.infer([batch]))` makes dictionaries too, which take 25 us
    request.set_input_tensor(openvino.Tensor(batch, shared_memory=True))
    request.start_async()
    request.wait()
    return request.get_output_tensor(0).data.copy()
""",
}
LOOP = """
import gc, itertools, sys, time
import numpy
path, pool = sys.argv[1], numpy.load(sys.argv[2])
seconds, warm_up_seconds = map(float, sys.argv[3:])
{open}
batches = itertools.cycle([pool[i:i + 1] for i in range(len(pool))])
end = time.perf_counter() + warm_up_seconds
while time.perf_counter() < end:
    run(next(batches))
gc.disable()
times, end = [], time.perf_counter() + seconds
for batch in batches:
    start = time.perf_counter()
    run(batch)
    stop = time.perf_counter()
    times.append(stop - start)
    if stop > end:
        break
print(numpy.median(times), numpy.mean(times))
"""


def main() -> None:
    """Measure what is missing, write the result and judge it."""
    arguments = _arguments()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # every child inherits it
    store = arguments.work / "rows.jsonl"
    arguments.work.mkdir(parents=True, exist_ok=True)
    done = {(row["network"], row["runtime"], row["repeat"]) for row in rows_of(store)}
    for name in arguments.only or NETWORKS:
        file = write_convolutions(arguments.work / f"{name}.onnx", **NETWORKS[name])
        for runtime in RUNTIMES:
            for repeat in range(arguments.repeats):
                if (name, runtime, repeat) not in done:
                    times = _measured(file, runtime, repeat, arguments)
                    row = {"network": name, "runtime": runtime, "repeat": repeat, "times": times}
                    add_row(store, {**row, "load": here().load})
    rows = rows_of(store)
    cells = grouped(rows, "network", "runtime")
    text = _table(cells, conditions(here(), 1), arguments)
    holds = all(_agrees(of) for of in cells.values())
    conclude("trust_agreement", {"rows": rows}, text, holds=holds)


def _measured(
    file: Path, runtime: str, repeat: int, arguments: argparse.Namespace
) -> dict[str, Times]:
    """Return p50 and mean of each way, in seconds."""
    # How many runs the tool is asked for, where it takes a number of them.
    expected = _hand_written(file, runtime, 0.2, arguments.work)["p50"]
    tools = {"onnxruntime_cpu": _onnxruntime_test, "openvino": _benchmark_app}
    ways: dict[str, Callable[[], Times]] = {
        "kdeploy": lambda: _kdeploy(file, runtime, arguments),
        "loop": lambda: _hand_written(file, runtime, arguments.seconds, arguments.work),
        TOOLS[runtime]: lambda: tools[runtime](file, arguments.seconds, expected),
    }
    order = list(ways) if repeat % 2 == 0 else list(reversed(ways))
    return {name: ways[name]() for name in order}


def _kdeploy(file: Path, runtime: str, arguments: argparse.Namespace) -> Times:
    result = bench(
        [ModelUnderTest(artifact=file.stem, label=file.stem, path=file, format="onnx")],
        Plan(
            runtimes=[runtime],
            threads=[1],
            data=None,
            accuracy=False,
            minimum_seconds=arguments.seconds,
            minimum_count=24,
        ),
        out=arguments.work,
    )
    found = {record.metric: record.value for record in result.measurements}
    return {"p50": float(found["latency.p50"] or 0), "mean": float(found["latency.mean"] or 0)}


def _hand_written(file: Path, runtime: str, seconds: float, work: Path) -> Times:
    pool = work / "pool.npy"
    model = ModelUnderTest(artifact=file.stem, label=file.stem, path=file, format="onnx")
    write_pool(model, None, batch_size=1, file=pool)
    script = LOOP.format(open=OPEN[runtime])
    told = _answer([sys.executable, "-c", script, file, pool, seconds, WARM_UP_SECONDS]).split()
    return {"p50": float(told[0]), "mean": float(told[1])}


def _onnxruntime_test(file: Path, seconds: float, expected: float) -> Times:
    runs = max(20, round(seconds / expected))
    told = _answer([sys.executable, "-m", "onnxruntime.tools.onnxruntime_test", file, runs])
    found = re.search(r"avg latency: ([\d.e-]+) ms", told)
    return {"mean": float(found[1]) * 1e-3} if found else {}


def _benchmark_app(file: Path, seconds: float, expected: float) -> Times:
    del expected
    network = NETWORKS[file.stem]
    shape = f"[1,{network['channels']},{network['size']},{network['size']}]"
    flags = ["-d", "CPU", "-api", "sync", "-hint", "none", "-nstreams", "1", "-nthreads", "1"]
    flags += ["-infer_precision", "f32", "-shape", shape, "-t", str(max(1, round(seconds)))]
    told = _answer([Path(sys.executable).with_name("benchmark_app"), "-m", file, *flags])
    found = {
        name: re.search(rf"{word}: +([\d.]+) (ms|us)", told)
        for name, word in (("p50", "Median"), ("mean", "Average"))
    }
    units = {"ms": 1e-3, "us": 1e-6}
    return {name: float(match[1]) * units[match[2]] for name, match in found.items() if match}


def _answer(command: list[Any]) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def _overhead() -> tuple[float, float]:
    """Return what a time holds beside the inference, and what each inference takes beside it."""
    batches = [np.zeros((1, 1), np.float32)]
    samples, elapsed = measure.timed(lambda batch: None, batches, seconds=1.0, count=1000)
    inside = statistics.median(samples.tolist()) * 1e-9
    return inside, elapsed / len(samples) - inside


def _ratio(rows: list[Row], other: str) -> tuple[str, stats.Estimate]:
    """Return which number was compared, and kdeploy's / the other's."""
    number = "p50" if "p50" in rows[0]["times"][other] else "mean"
    pairs = [[row["times"][way][number] for way in ("kdeploy", other)] for row in rows]
    return number, stats.paired_ratio(*zip(*pairs, strict=True))


def _agrees(rows: list[Row]) -> bool:
    return abs(_ratio(rows, "loop")[1].value - 1) <= BOUND


def _table(
    cells: dict[tuple[str, str], list[Row]], where: str, arguments: argparse.Namespace
) -> str:
    inside, around = _overhead()
    lines = [
        "# Latency beside a loop written by hand and the runtimes' own tools",
        "",
        f"`python benchmarks/suites/trust_agreement.py --repeats {arguments.repeats} --seconds "
        f"{arguments.seconds:g}`; {where}; all on one core, in turns. A ratio is kdeploy's / the "
        "other's in the same repeat (Hodges-Lehmann, 95 % interval).",
        "",
        f"Overhead: a time holds {inside * 1e9:.0f} ns beside the inference, and each takes "
        f"{around * 1e9:.0f} ns more around it, which no time holds. `benchmark_app` times the "
        "inference alone; kdeploy and the loop also hand the input over from Python and take the "
        "output back, as a program does.",
        "",
    ]
    header = "network | runtime | repeats | kdeploy p50 | beside | number | ratio | within 2 %"
    ratios = [
        _cells(*cell, of, other) for cell, of in cells.items() for other in ("loop", TOOLS[cell[1]])
    ]
    return "\n".join([*lines, *table(header, ratios)]) + "\n"


def _cells(network: str, runtime: str, of: list[Row], other: str) -> list[str]:
    p50 = statistics.median(row["times"]["kdeploy"]["p50"] for row in of)
    number, ratio = _ratio(of, other)
    return [
        *(network, runtime, str(len(of)), f"{p50 * 1e6:,.1f} us", other, number),
        f"{ratio.value:.4f} ({ratio.low:.4f} to {ratio.high:.4f})",
        "yes" if abs(ratio.value - 1) <= BOUND else "no",
    ]


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, work="trust_agreement", only=NETWORKS)
    parser.add_argument("--repeats", type=int, default=10, help="turns of each way")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing in a turn")
    return parser.parse_args()


if __name__ == "__main__":
    main()
