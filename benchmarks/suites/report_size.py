"""A report of 100 000 records of several machines: reading, drawing, its size, opening it.

    python benchmarks/suites/report_size.py [--records 100000] [--machines 5]

The records are made up, with the shape of real ones: on each machine 40 files in four runtimes at
five batch sizes and two or more thread counts, ten metrics a cell. Timed are
`kdeploy.measurement.load` (a pandas table), `comparison` (rows, ratios, the best of each device),
each format, and a headless Chromium from navigation to its load event. Exits 1 where drawing the
page takes 30 s or more, where it has 6 MB or more, or where the browser's console says anything.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared.chromium import opened
from benchmarks.shared.running import conditions, here, write_result
from kdeploy.measurement import Measurement, load, write
from kdeploy.report.run import comparison, render

MOST_SECONDS, MOST_BYTES = 30.0, 6_000_000
FILES = ("teacher", *(f"student-{i:02d}" for i in range(39)))
RUNTIMES = ("onnxruntime_cpu", "openvino", "torch_eager", "tensorrt")
BATCH_SIZES = (1, 4, 16, 64, 256)
METRICS = ("latency.mean", "latency.p50", "latency.p90", "latency.p99", "throughput")


def main() -> None:
    """Write the records, time each step, write the result and judge it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--machines", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = _measured(Path(folder), arguments.records, arguments.machines)
    machine = here()
    text = _table(measured, conditions(machine, machine.cores))
    print(text)
    write_result("report_size", {"machine": machine.to_dict(), "measured": measured}, text, machine)
    drawing = measured["compare_seconds"] + measured["html_seconds"]
    is_small = drawing < MOST_SECONDS and measured["html_bytes"] < MOST_BYTES
    sys.exit(0 if is_small and not measured["browser_problems"] else 1)


def _measured(folder: Path, count: int, num_machines: int) -> dict[str, Any]:
    results = [folder / f"machine-{i}" for i in range(num_machines)]
    for index, result in enumerate(results):
        result.mkdir()
        own = count // num_machines + (index < count % num_machines)
        write(islice(records(f"machine-{index}", seed=index), own), result / "measurements.jsonl")
    found: dict[str, Any] = {"records": count, "machines": num_machines}
    table, found["load_seconds"] = _timed(lambda: load(*results))
    drawn, found["compare_seconds"] = _timed(lambda: comparison(results))
    found |= {"loaded": len(table), "rows": len(drawn.rows)}
    for form in ("html", "markdown", "csv", "json"):
        text, found[f"{form}_seconds"] = _timed(lambda form=form: render(drawn, form))
        found[f"{form}_bytes"] = len(text.encode())
        (folder / f"report.{form}").write_text(text)
    with opened() as page:
        page.open(folder / "report.html")
        navigation = "performance.getEntriesByType('navigation')[0]"
        found["browser_load_seconds"] = page.run(f"{navigation}.loadEventEnd") / 1e3
        found["browser_rows"] = page.run("document.querySelectorAll('[id^=row-]').length")
        found["browser_problems"] = page.problems
    return found


def records(machine: str, *, seed: int) -> Iterator[Measurement]:
    """Yield records of one machine without end: more thread counts, as long as it takes."""
    random = np.random.default_rng(seed)
    speed = {name: float(s) for name, s in zip(RUNTIMES, random.uniform(1, 4, 4), strict=True)}
    for threads in range(1, 1_000_000):
        for index, runtime in product(range(len(FILES)), RUNTIMES):
            for batch_size in BATCH_SIZES:
                cell = {"runtime": runtime, "batch_size": batch_size, "threads": threads}
                seconds = 1e-3 * speed[runtime] * batch_size**0.8 / (1 + index / 4)
                yield from _cell(index, machine, cell, seconds * random.uniform(0.9, 1.1))


def _cell(index: int, machine: str, cell: dict[str, Any], seconds: float) -> Iterator[Measurement]:
    label = FILES[index]
    model = {"artifact": f"id-{label}", "label": label, "machine": machine, "device": "cpu"}
    model |= {**cell, "profile": "cpu", "flags": ("virtual_machine",)}
    for stretch, metric in zip((1.05, 1.0, 1.2, 1.6), METRICS, strict=False):
        value = seconds * stretch
        bounds = {"value": value, "low": value * 0.98, "high": value * 1.02, "n": 2000}
        yield Measurement(metric=metric, **bounds, **model)
    yield Measurement(metric="throughput", value=cell["batch_size"] / seconds, n=2000, **model)
    yield Measurement(metric="load_time", value=0.2, **model)
    yield Measurement(metric="peak_memory", value=2e8 / (1 + index / 8), **model)
    yield Measurement(metric="size", value=4e6 / (1 + index / 2), **model)
    accuracy = 0.95 - 0.002 * index
    bounds = {"low": accuracy - 0.01, "high": accuracy + 0.01, "n": 10_000}
    yield Measurement(metric="accuracy.top1", value=accuracy, **bounds, **model)
    yield Measurement(metric="integer_kernels", value=1.0, n=20, **model)


def _timed(do: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return do(), time.perf_counter() - start


def _table(found: dict[str, Any], conditions: str) -> str:
    lines = [
        ("load (pandas)", found["load_seconds"], f"{found['loaded']:,} records"),
        ("compare", found["compare_seconds"], f"{found['rows']:,} rows"),
        *(
            (f"draw {form}", found[f"{form}_seconds"], f"{found[f'{form}_bytes'] / 1e6:.2f} MB")
            for form in ("html", "markdown", "csv", "json")
        ),
        ("Chromium, to its load event", found["browser_load_seconds"], _browser(found)),
    ]
    rows = "\n".join(f"| {what} | {seconds:.2f} s | {note} |" for what, seconds, note in lines)
    return (
        f"# A report of {found['records']:,} records of {found['machines']} machines\n\n"
        f"| step | time | |\n|---|---|---|\n{rows}\n\n{conditions}\n"
    )


def _browser(found: dict[str, Any]) -> str:
    problems = len(found["browser_problems"])
    return f"{found['browser_rows']} rows in the page, {problems} lines in the console"


if __name__ == "__main__":
    main()
