"""Whether the fast loop ends where the tutorials' loop does: test accuracy, several seeds.

    python benchmarks/suites/distillation_accuracy.py [--items 12800] [--epochs 2] [--seeds 8]

The pair, losses and optimizer of `distillation_throughput.py`, a learning rate that falls to zero
along a cosine (at a constant one the last step decides, and seeds differ by points), the first
items of the training part, crops and flips drawn anew in every epoch. Few items and many seeds: so
short a training differs by points from seed to seed, and only many of them tell two loops apart. A
training that `results.jsonl` in the work folder has is not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.suites.distillation_table import model, shipped_teacher
from benchmarks.suites.distillation_throughput import (
    BATCH,
    KD,
    tutorial_epoch,
    tutorial_optimizer,
)
from kdeploy.data.contract import Dataset
from kdeploy.data.load import DataReference, load
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.runtimes.run import this_machine
from kdeploy.training.fit import FitContext, accuracy

TRAINING = {
    "learning_rate": 0.05,
    "schedule": "cosine",
    "weight_decay": 0.0,
    "keep": "last",
    "batch_size": BATCH,
}


def main() -> None:
    """Train what is missing, print the table."""
    arguments = _arguments()
    data = _data(arguments.items)
    results = arguments.work / "results.jsonl"
    arguments.work.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        for name, train in {"tutorial loop": _tutorial, "kdeploy": _ours}.items():
            key = {"loop": name, "seed": seed, "epochs": arguments.epochs, "items": arguments.items}
            if any(key.items() <= known.items() for known in _read(results)):
                continue
            found = {**key, "accuracy": train(data, seed, arguments.epochs)}
            with results.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(found, flush=True)
    asked = {"epochs": arguments.epochs, "items": arguments.items}
    print(_table([r for r in _read(results) if asked.items() <= r.items()], arguments))


def _data(items: int) -> Dataset:
    whole = load(DataReference(name="fashion_mnist", augment=("random_crop", "horizontal_flip")))
    train = replace(whole.train, x=whole.train.x[:items], y=whole.train.y[:items])
    return replace(whole, train=train)


def _tutorial(data: Dataset, seed: int, epochs: int) -> float:
    torch.manual_seed(seed)
    student = model(seed=seed, width=8, depth=1)
    optimizer = tutorial_optimizer(student)
    steps = epochs * math.ceil(len(data.train) / BATCH)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    optimizer.register_step_post_hook(lambda *_: falling.step())
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(data.train))
        tutorial_epoch(student, shipped_teacher(), data, order, optimizer)
    return accuracy(student.eval(), data.test, data.preprocessing)


def _ours(data: Dataset, seed: int, epochs: int) -> float:
    student = model(seed=seed, width=8, depth=1)
    training = {**TRAINING, "epochs": epochs}
    distill(
        student, shipped_teacher(), data, FitContext(seed=seed), DistillConfig(**training, **KD)
    )
    return accuracy(student, data.test, data.preprocessing)


def _table(results: list[dict[str, Any]], arguments: Any) -> str:
    command = f"--items {arguments.items} --epochs {arguments.epochs} --seeds {arguments.seeds}"
    lines = [
        "# The fast loop and the tutorials' loop: test accuracy",
        "",
        f"`python benchmarks/suites/distillation_accuracy.py {command}`; {this_machine().cpu}.",
        "",
        "| loop | test accuracy | deviation | seeds |",
        "|---|---:|---:|---:|",
    ]
    for name in dict.fromkeys(r["loop"] for r in results):
        found = [r["accuracy"] for r in results if r["loop"] == name]
        deviation = f"{100 * statistics.stdev(found):.2f} pp" if len(found) > 1 else "-"
        lines.append(f"| {name} | {statistics.mean(found):.2%} | {deviation} | {len(found)} |")
    return "\n".join([*lines, "", _difference(results)]) + "\n"


def _difference(results: list[dict[str, Any]]) -> str:
    """Return the mean difference of the loops over the seeds that both have."""
    by_seed: dict[int, dict[str, float]] = {}
    for row in results:
        by_seed.setdefault(row["seed"], {})[row["loop"]] = row["accuracy"]
    found = [100 * (a["kdeploy"] - a["tutorial loop"]) for a in by_seed.values() if len(a) == 2]
    if len(found) < 2:
        return "Too few seeds for a difference."
    error = statistics.stdev(found) / math.sqrt(len(found))
    mean = statistics.mean(found)
    return f"kdeploy - tutorial loop: {mean:+.2f} pp, standard error {error:.2f} pp."


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--items", type=int, default=12800)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--work", type=Path, default=Path("runs/distillation_accuracy"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
