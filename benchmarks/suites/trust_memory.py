"""Does peak memory agree with `/usr/bin/time -v` of an equivalent script.

    python benchmarks/suites/trust_memory.py [--only small] [--repeats 11]

GNU time is the Debian package `time`. Three networks in ONNX Runtime on one thread: `peak_memory`
of `kdeploy bench`, and the maximum resident set of an equivalent script. That one imports numpy and
onnxruntime and nothing else, loads the same array of inputs, opens the file with the same options
and one thread, and runs 64 batches of one item, keeping no output.

Where the C library finds room for a large block depends on all blocks before it: the same script
needs 263 to 290 MiB for the large file, in steps of one of its weights, by nothing but the length
of its environment. So every repeat gives both sides a variable of another length (Mytkowicz et
al., ASPLOS 2009), and they take turns at being first. The ratio of the medians must be within 3 %.

One line a repeat goes to `rows.jsonl` in the work folder; what is there is not repeated. Python's
bytecode of kdeploy is to be there, as it is after an installation. Takes about 3 minutes; exits 1
when one is not within 3 %.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared.running import add_row, conditions, here, rows_of, write_result
from benchmarks.shared.sized_files import write_convolutions
from kdeploy.bench.inputs import write_pool
from kdeploy.bench.plan import Plan
from kdeploy.bench.run import ModelUnderTest, bench

NETWORKS = {
    "small": {"channels": 8, "size": 8, "layers": 10},
    "middle": {"channels": 64, "size": 56, "layers": 8},
    "large": {"channels": 512, "size": 14, "layers": 8},  # 75 MB of weights
}
BOUND = 0.03
CALLS = 64
PADDING_BYTES = 509  # a repeat's variable is longer by it than that of the one before
SCRIPT = f"""
import sys
import numpy
import onnxruntime
pool = numpy.load(sys.argv[2])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
for index in range({CALLS}):
    batch = pool[index % len(pool):][:1]
    session.run(None, {{"x": batch}})
"""


def main() -> None:
    """Measure what is missing, write the result and judge it."""
    arguments = _arguments()
    store = arguments.work / "rows.jsonl"
    arguments.work.mkdir(parents=True, exist_ok=True)
    done = {(row["network"], row["repeat"]) for row in rows_of(store)}
    for name in arguments.only or NETWORKS:
        file = write_convolutions(arguments.work / f"{name}.onnx", **NETWORKS[name])
        for repeat in range(arguments.repeats):
            if (name, repeat) not in done:
                row = {"network": name, "repeat": repeat}
                add_row(store, row | _measured(file, repeat, arguments.work))
    machine, rows = here(), rows_of(store)
    text = _table(rows, conditions(machine, 1))
    print(text)
    write_result("trust_memory", {"machine": machine.to_dict(), "rows": rows}, text, machine)
    sys.exit(0 if all(abs(_ratio(of) - 1) <= BOUND for of in _by_network(rows).values()) else 1)


def _measured(file: Path, repeat: int, work: Path) -> dict[str, int]:
    os.environ["PADDING"] = "x" * (PADDING_BYTES * repeat)  # both sides inherit it
    model = ModelUnderTest(artifact=file.stem, label=file.stem, path=file, format="onnx")
    sides = {"kdeploy_bytes": _by_kdeploy, "time_bytes": _by_time}
    order = list(sides) if repeat % 2 == 0 else list(reversed(sides))
    return {name: sides[name](model, work) for name in order}


def _by_kdeploy(model: ModelUnderTest, work: Path) -> int:
    result = bench(
        [model],
        Plan(
            runtimes=["onnxruntime_cpu"],
            threads=[1],
            data=None,
            accuracy=False,
            minimum_seconds=0.2,
            minimum_count=CALLS,
        ),
        out=work,
    )
    record = next(r for r in result.measurements if r.metric == "peak_memory")
    if record.value is None:
        sys.exit(f"no peak memory: {record.skipped}")
    return round(record.value)


def _by_time(model: ModelUnderTest, work: Path) -> int:
    pool = work / "pool.npy"
    write_pool(model, None, batch_size=1, file=pool)
    command = ["/usr/bin/time", "-v", sys.executable, "-c", SCRIPT, str(model.path), str(pool)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    found = re.search(r"Maximum resident set size \(kbytes\): (\d+)", told)
    if found is None:
        sys.exit(f"no peak memory: {told}")
    return int(found[1]) * 1024


def _by_network(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    names = dict.fromkeys(row["network"] for row in rows)
    return {name: [row for row in rows if row["network"] == name] for name in names}


def _median(rows: list[dict[str, Any]], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def _ratio(rows: list[dict[str, Any]]) -> float:
    return _median(rows, "kdeploy_bytes") / _median(rows, "time_bytes")


def _table(rows: list[dict[str, Any]], where: str) -> str:
    lines = [
        "# Peak memory beside `/usr/bin/time -v`",
        "",
        f"`python benchmarks/suites/trust_memory.py`; {where}. Medians of repeats "
        "that differ in the length of the environment; quartiles in brackets.",
        "",
        "| network | repeats | kdeploy peak_memory | time -v of a script | ratio | within 3 % |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in _by_network(rows).items():
        cells = [name, str(len(of))]
        for column in ("kdeploy_bytes", "time_bytes"):
            low, high = np.percentile([row[column] for row in of], (25, 75)) / 2**20
            cells.append(f"{_median(of, column) / 2**20:.1f} MiB ({low:.1f} to {high:.1f})")
        is_within = "yes" if abs(_ratio(of) - 1) <= BOUND else "no"
        lines.append(f"| {' | '.join([*cells, f'{_ratio(of):.3f}', is_within])} |")
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS), help="these networks")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--work", type=Path, default=Path("runs/trust_memory"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
