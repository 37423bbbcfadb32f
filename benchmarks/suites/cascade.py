"""A cascade on Fashion-MNIST: what it saves, what it costs, and whether its promise is kept.

    python -m benchmarks.suites.cascade [--work runs/cascade]

Runs models/fashion_mnist/cascade.yaml (what is stored there is not made again): a student of 19 810
parameters, then the shipped teacher, measured in turns on real test items. Then the promise: in
each of 100 random splits of the 10 000 test items a threshold is chosen on 2500 of them, and the
risk counted on the 7500 others; beside it the threshold whose risk on the 2500 merely looks right.
At last the bundle's own runner answers all test items, and has to agree with the measured file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared.running import conclude, conditions, here, parser_of, table
from kdeploy.data.contract import Dataset
from kdeploy.dynamic.calibration import GRID, Promise, answered_by, calibrate, largest
from kdeploy.measurement import Measurement, read, select
from kdeploy.pipeline.packaging import outputs_of
from kdeploy.recipe.read import load as load_recipe

RECIPE = Path("models/fashion_mnist/cascade.yaml")
SPLITS, CALIBRATION_ITEMS, CHUNK = 100, 2500, 64
PROMISES = (Promise(risk=0.01, confidence=0.9), Promise(risk=0.005, confidence=0.9))
MOST_LOST, MOST_OF_MEAN, FEWEST_KEPT = 0.002, 0.4, 90


def main() -> None:
    """Measure, write the results, and end with 1 where what was asked does not hold."""
    options = parser_of(__doc__ or "", work="cascade").parse_args()
    subprocess.run(
        [sys.executable, "-m", "kdeploy", "run", str(RECIPE), "--out", str(options.work)],
        check=True,
    )
    data = _data()
    measured = _measured(read(options.work))
    labels = np.asarray(data.test.y)
    logits = [
        _answers(options.work / "exports" / f"{n}.onnx", data) for n in ("student", "teacher")
    ]
    splits = [_splits(logits, labels, promise) for promise in PROMISES]
    runner = _runner(options.work / "bundle", data, options.work)
    result = {"measured": measured, "splits": splits, "runner": runner}
    lost = measured["teacher"]["accuracy.top1"] - measured["cascade"]["accuracy.top1"]
    ratio = measured["cascade"]["latency.mean"] / measured["teacher"]["latency.mean"]
    holds = (
        lost <= MOST_LOST
        and ratio <= MOST_OF_MEAN
        and all(one["kept"] >= FEWEST_KEPT for one in splits)
        and abs(runner["accuracy"] - measured["cascade"]["accuracy.top1"]) < 1e-9
    )
    result["load"] = os.getloadavg()[2]
    conclude("cascade", result, _text(measured, splits, runner, lost, ratio), holds=holds)


def _data() -> Dataset:
    from kdeploy.data.load import load

    return load(load_recipe(RECIPE).data)


def _measured(records: list[Measurement]) -> dict[str, dict[str, float]]:
    names = ("accuracy.top1", "latency.mean", "latency.p50", "latency.p99", "size", "early_share")
    found: dict[str, dict[str, float]] = {}
    for label in ("teacher", "student", "cascade"):
        own = [r for r in records if r.label == label and r.runtime == "onnxruntime_cpu"]
        values = {n: next((r.value for r in select(own, n)), None) for n in names}
        found[label] = {n: v for n, v in values.items() if v is not None}
    return found


def _answers(file: Path, data: Dataset) -> Any:
    items = data.test.x
    starts = range(0, len(items), CHUNK)
    pieces = (data.preprocessing.apply(np.asarray(items[i : i + CHUNK])) for i in starts)
    return np.concatenate([outputs_of(file, piece) for piece in pieces])


def _splits(logits: list[Any], labels: Any, promise: Promise) -> dict[str, Any]:
    """Return in how many splits the promise is kept, and of the naive threshold the same."""
    kept = naive_kept = 0
    early: list[float] = []
    right = [part.argmax(axis=1) == labels for part in logits]
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(labels))
        own, rest = order[:CALIBRATION_ITEMS], order[CALIBRATION_ITEMS:]
        found = calibrate([part[own] for part in logits], labels[own], promise, seed=seed)
        score = largest(logits[0], found.temperatures[0])

        def risk(threshold: float, rows: Any, score: Any = score) -> float:
            leaves = answered_by([score[rows]], threshold) == 0
            return float((leaves & ~right[0][rows] & right[1][rows]).mean())

        kept += risk(found.threshold, rest) <= promise.risk
        early.append(float((score[rest] >= found.threshold).mean()))
        seen = np.array([risk(t, own) for t in GRID])
        naive_kept += risk(GRID[np.flatnonzero(seen <= promise.risk)[-1]], rest) <= promise.risk
    return {
        "risk": promise.risk,
        "confidence": promise.confidence,
        "kept": int(kept),
        "naive_kept": int(naive_kept),
        "early_share": float(np.mean(early)),
    }


def _runner(bundle: Path, data: Dataset, work: Path) -> dict[str, float]:
    """Return what the bundle's own runner makes of all test items."""
    items = work / "test_items.npy"
    np.save(items, data.preprocessing.apply(np.asarray(data.test.x)))
    program = bundle / "runner" / "python" / "run.py"
    command = [sys.executable, str(program), "--preprocessed", "--json", str(items)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    predicted = np.array([one["index"] for one in told["predictions"]])
    right = float((predicted == np.asarray(data.test.y)).mean())
    return {"accuracy": right, "early_share": told["early_share"]}


def _text(
    measured: dict[str, dict[str, float]],
    splits: list[dict[str, Any]],
    runner: dict[str, float],
    lost: float,
    ratio: float,
) -> str:
    rows = [
        (
            f"{label} (dynamic)" if label == "cascade" else label,
            f"{m['accuracy.top1']:.2%}",
            *(_latency(m.get(f"latency.{part}")) for part in ("mean", "p50", "p99")),
            f"{m['early_share']:.1%}" if "early_share" in m else "-",
            f"{m['size'] / 1024:.0f} KiB",
        )
        for label, m in measured.items()
    ]
    promises = [
        (
            f"{one['risk']:.1%}, {one['confidence']:.0%}",
            f"{one['kept']} of {SPLITS}",
            f"{one['naive_kept']} of {SPLITS}",
            f"{one['early_share']:.1%}",
        )
        for one in splits
    ]
    lines = [
        "# A cascade on Fashion-MNIST",
        "",
        "`python -m benchmarks.suites.cascade`; 10 000 test images in order, batch 1, in turns.",
        f"{conditions(here(), 1)}; load average over 15 minutes {os.getloadavg()[2]:.0f}.",
        "",
        *table(
            "file | top-1 | mean | p50 | p99 | left early | size", rows, right=(1, 2, 3, 4, 5, 6)
        ),
        "",
        f"The cascade loses {100 * lost:.2f} pp (asked: at most {100 * MOST_LOST:.1f}) at "
        f"{ratio:.2f} of the teacher's mean latency (asked: at most {MOST_OF_MEAN}). Its p99 is "
        "that of the full path.",
        f"The bundle's runner: {runner['accuracy']:.2%}, {runner['early_share']:.1%} left early.",
        "",
        f"The promise, chosen on {CALIBRATION_ITEMS} test images and judged on the others:",
        "",
        *table(
            "risk, confidence | kept | kept by the naive threshold | left early",
            promises,
            right=(1, 2, 3),
        ),
    ]
    return "\n".join(lines) + "\n"


def _latency(seconds: float | None) -> str:
    """Return a latency; a p99 of too few calls has no value."""
    return "-" if seconds is None else f"{seconds * 1e6:.0f} us"


if __name__ == "__main__":
    main()
