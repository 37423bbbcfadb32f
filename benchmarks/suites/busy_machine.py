"""Training on a busy machine: threads by what is free, beside as many as there are processors.

    python benchmarks/suites/busy_machine.py [--pairs 3]

As many programs as there are processors compute beside it all the time. In turns (ABBA), each in a
process of its own, a residual network is trained on 256 digits with torch's own number
of threads (`OMP_NUM_THREADS` names it) and with the number that kdeploy chooses. Every other suite
trains with torch's own number of threads, or with the number that its result names. Exits 1 where
the chosen number is the slower one.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from benchmarks.shared.running import conclude, conditions, here, parser_of, table

EPOCH = """
from dataclasses import replace
from kdeploy.data.contract import Split
from kdeploy.data.load import DataReference, load
from kdeploy.store.references import ModelReference, build_model
from kdeploy.training.fit import FitContext, Supervised, TrainingConfig, fit
model = build_model(ModelReference(build="models/digits/build.py:resnet", args={"width": 16}))
data = load(DataReference(name="digits"))
data = replace(data, train=Split(x=data.train.x[:256], y=data.train.y[:256]))
result = fit(Supervised(model), data, FitContext(), TrainingConfig(epochs=1))
print(result.arithmetic.threads, result.history[0].images_per_second)
"""
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ALL, FREE = "as many as processors", "as many as are free"


def main() -> None:
    """Train in turns beside the load, write the table and judge it."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--pairs", type=int, default=3)
    pairs = parser.parse_args().pairs
    machine = here()
    rates: dict[str, list[float]] = {ALL: [], FREE: []}
    threads: dict[str, set[int]] = {ALL: set(), FREE: set()}
    with _load(machine.cores):
        for pair in range(pairs):
            for way in (ALL, FREE) if pair % 2 == 0 else (FREE, ALL):
                used, rate = _epoch(machine.cores if way == ALL else None)
                threads[way].add(used)
                rates[way].append(rate)
                print(f"{way}: {used} threads, {rate:.0f} items/s", flush=True)
    ratio = median(rates[FREE]) / median(rates[ALL])
    rows = [
        [way, ", ".join(map(str, sorted(threads[way]))), f"{median(found):.0f}", _range(found)]
        for way, found in rates.items()
    ]
    lines = [
        "# Training beside as many other programs as there are processors",
        "",
        *table("threads | number | items/s, median | range", rows, right=(1, 2, 3)),
        "",
        f"Ratio of the medians: {ratio:.1f}x, of {pairs} pairs in turns.",
        "",
        conditions(machine, machine.cores),
    ]
    measured = {"items_per_second": rates, "ratio": ratio}
    conclude("busy_machine", measured, "\n".join(lines) + "\n", holds=ratio >= 1)


@contextmanager
def _load(count: int) -> Iterator[None]:
    others = [multiprocessing.Process(target=_busy, daemon=True) for _ in range(count)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.terminate()
            other.join()


def _busy() -> None:
    while True:
        pass


def _epoch(threads: int | None) -> tuple[int, float]:
    """Return the threads and the items a second of one epoch; None: kdeploy chooses."""
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    if threads is not None:
        environment |= dict.fromkeys(VARIABLES, str(threads))
    done = subprocess.run(
        [sys.executable, "-c", EPOCH],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    used, rate = done.stdout.split()
    return int(used), float(rate)


def _range(found: list[float]) -> str:
    return f"{min(found):.0f} to {max(found):.0f}"


if __name__ == "__main__":
    main()
