"""One elastic training against a training for each size: accuracy, and processor time of both.

    python -m benchmarks.suites.elastic_sizes [--seeds 3] [--epochs 15] [--widths 4 8 12 16]

Residual networks for scikit-learn's digits that differ in width, taught by labels alone, so that
nothing but the sharing differs. Of the elastic student each width is cut out, once with statistics
of batch norm measured again and once with those of the largest. Accuracy is of the test part;
times are of the processor, because a machine that does other things beside stretches all others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from benchmarks.shared.running import Row, here, parser_of, results_folder, table
from kdeploy.data.contract import Dataset
from kdeploy.data.load import DataReference, load
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.runtimes.run import this_machine
from kdeploy.store.references import ModelReference, build_model
from kdeploy.torch_module.nested import cut_out
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, Supervised, accuracy, fit
from kdeploy.training.remeasured_norms import remeasure_norms

BUILD = "models/digits/build.py:resnet"
TRAINING: Row = {"batch_size": 64, "learning_rate": 0.1, "schedule": "one_cycle"}


def main() -> None:
    """Train under several seeds, and write the table."""
    arguments = _arguments()
    rows = [_row(seed, arguments) for seed in range(arguments.seeds)]
    text = _text(rows, arguments)
    print(text)
    arguments.out.write_text(text)


def _row(seed: int, arguments: argparse.Namespace) -> Row:
    data = load(DataReference(name="digits", validation_fraction=0.15, seed=seed))
    own: dict[int, float] = {}
    started = time.process_time()
    for width in arguments.widths:
        network = _network(width, seed)
        config = TrainingConfig(epochs=arguments.epochs, **TRAINING)
        fit(Supervised(network), data, FitContext(seed=seed), config)
        own[width] = _right(network, data)
    own_seconds = time.process_time() - started
    started = time.process_time()
    large = _elastic(seed, data, arguments)
    elastic_seconds = time.process_time() - started
    measured, as_they_were = {}, {}
    for width in arguments.widths:
        small = _network(width, seed)
        cut_out(small, large)
        as_they_were[width] = _right(small.eval(), data)
        if width != max(arguments.widths):
            remeasure_norms(small, data)
        measured[width] = _right(small, data)
    return {
        "own": own,
        "elastic": measured,
        "not measured again": as_they_were,
        "ratio": elastic_seconds / own_seconds,
    }


def _elastic(seed: int, data: Dataset, arguments: argparse.Namespace) -> nn.Module:
    sizes = [{"build": BUILD, "args": {"width": w}} for w in arguments.widths[:-1]]
    config = DistillConfig(
        scheme={"elastic": {"sizes": sizes}},
        losses=[],
        baseline=False,
        epochs=arguments.epochs,
        **TRAINING,
    )

    def build(reference: Mapping[str, Any], _: int) -> nn.Module:
        return _network(reference["args"]["width"], seed)

    largest = _network(arguments.widths[-1], seed)
    nobody = _network(4, seed)  # there are no losses that would ask it
    context = FitContext(seed=seed)
    return distill(largest, nobody, data, context, config, build=build).model


def _network(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(ModelReference(build=BUILD, args={"width": width, "depth": 1}))


def _right(network: nn.Module, data: Dataset) -> float:
    return accuracy(network, data.test, data.preprocessing)


def _text(rows: list[Row], arguments: argparse.Namespace) -> str:
    machine = this_machine()
    kinds = {
        "own": "a training for each width",
        "elastic": "one elastic training, norms measured again",
        "not measured again": "the same, norms of the largest",
    }
    cells = [
        [told, *(f"{100 * fmean(r[kind][w] for r in rows):.2f}" for w in arguments.widths)]
        for kind, told in kinds.items()
    ]
    ratio = fmean(row["ratio"] for row in rows)
    lines = [
        "# One elastic training, or one for each size",
        "",
        f"{machine.cpu}, one thread, beside other work; digits, {arguments.epochs} epochs, mean of"
        f" {len(rows)} seeds; test accuracy in %, 450 items: a difference below about 1 pp is"
        " within chance.",
        "",
        *table(" | ".join(["width", *map(str, arguments.widths)]), cells),
        "",
        f"Processor time of the elastic training: {ratio:.2f} of that of all"
        f" {len(arguments.widths)} trainings together (recorded accuracies of the sizes included).",
        "",
        f"Command: `python -m benchmarks.suites.elastic_sizes --seeds {arguments.seeds} --epochs"
        f" {arguments.epochs} --widths {' '.join(map(str, arguments.widths))}`",
    ]
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 12, 16])
    parser.add_argument("--out", type=Path, default=results_folder(here().cpu) / "elastic_sizes.md")
    found = parser.parse_args()
    found.widths.sort()
    return found


if __name__ == "__main__":
    main()
