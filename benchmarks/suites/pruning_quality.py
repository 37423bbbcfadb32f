"""Channel pruning beside torch-pruning's own pruner: the same network, cost and fine-tuning.

    python benchmarks/suites/pruning_quality.py [--epochs 3] [--seeds 1] [--work DIR]

The shipped Fashion-MNIST teacher (width 32, depth 3) loses 50 %, 70 % and 85 % of its
multiply-accumulates, and learns again from what it was: kd at temperature 1 beside the labels,
two views of the 54 000 training images, crop and flip, test accuracy of the last epoch. Ours are
`prune_channels` with its defaults, by `l2` and by `taylor`. The peer is `BasePruner` with
`GroupMagnitudeImportance(p=2)` as torch-pruning's README shows it, which ranks layer by layer, and
with `global_pruning=True`; it takes a ratio of channels, here the one that leaves the same
multiply-accumulates within 2 %: of the README's round_to 8, or of 4, 2 and 1 where 8 allows none.
One line a row goes to `results.jsonl` in the work folder; a row that is there is not repeated.
Prints a markdown table. Latency: medians in turns with the teacher's, batch 1.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from benchmarks.suites.distillation_table import TRAINING, shipped_teacher
from kdeploy.compress.compressors.prune_channels import prune_channels
from kdeploy.compress.contract import CompressContext, Timing
from kdeploy.data.contract import Dataset
from kdeploy.data.load import DataReference, load
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.pipeline.stopwatch import Latencies
from kdeploy.runtimes.run import this_machine
from kdeploy.torch_module.complexity import count_macs, count_parameters
from kdeploy.training.fit import FitContext, accuracy

KEEP = (0.5, 0.3, 0.15)
TOLERANCE = 0.02
RUNTIME = "onnxruntime_cpu"
LATENCY_SECONDS = 3.0
LEARNING_RATE = 0.05
Prune = Callable[[nn.Module, CompressContext, float], nn.Module]


def ours(
    model: nn.Module, context: CompressContext, fraction: float, **parameters: Any
) -> nn.Module:
    """Return the model with that fraction of its multiply-accumulates."""
    return prune_channels(model, context, target={"macs": fraction}, **parameters)


def theirs(
    model: nn.Module, context: CompressContext, fraction: float, *, is_global: bool
) -> nn.Module:
    """Return what torch-pruning leaves at the ratio that comes closest to the fraction."""
    example, whole = context.example, count_macs(model, context.example)

    def kept(found: nn.Module) -> float:
        return count_macs(found, example) / whole

    found = model
    for round_to in (8, 4, 2, 1):
        low, high = 0.0, 1.0
        for _ in range(9):
            ratio = (low + high) / 2
            made = _at_ratio(model, example, ratio, round_to=round_to, is_global=is_global)
            low, high = (ratio, high) if kept(made) > fraction else (low, ratio)
            found = min((found, made), key=lambda m: abs(kept(m) - fraction))
        if abs(kept(found) - fraction) <= TOLERANCE * fraction:
            break
    return found


def _at_ratio(
    model: nn.Module, example: Tensor, ratio: float, *, round_to: int, is_global: bool
) -> nn.Module:
    twin = copy.deepcopy(model)
    torch_pruning.pruner.BasePruner(
        twin,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        global_pruning=is_global,
        ignored_layers=[twin[-1][-1]],
        round_to=round_to,
    ).step()
    return twin.eval()


ROWS: Mapping[str, Prune] = {
    "kdeploy, l2": ours,
    "kdeploy, taylor": partial(ours, importance="taylor"),
    "torch-pruning, README": partial(theirs, is_global=False),
    "torch-pruning, global": partial(theirs, is_global=True),
}


def main() -> None:
    """Prune and train what is missing, print the table."""
    arguments = _arguments()
    data = load(DataReference(name="fashion_mnist", augment=("random_crop", "horizontal_flip")))
    teacher = shipped_teacher().eval()
    results = arguments.work / "results.jsonl"
    arguments.work.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        for fraction in arguments.keep:
            for name in arguments.only or ROWS:
                key = {"row": name, "kept": fraction, "seed": seed, "epochs": arguments.epochs}
                if any(key.items() <= known.items() for known in _read(results)):
                    continue
                found = {**key, **_measured(teacher, data, key, arguments)}
                with results.open("a") as file:
                    file.write(json.dumps(found) + "\n")
                print(found, flush=True)
    whole = {
        "accuracy": accuracy(teacher, data.test, data.preprocessing),
        "parameters": count_parameters(teacher),
    }
    print(_table([r for r in _read(results) if r["epochs"] == arguments.epochs], whole))


def _measured(
    teacher: nn.Module, data: Dataset, key: Mapping[str, Any], arguments: argparse.Namespace
) -> dict[str, Any]:
    context = CompressContext(data=data, seed=key["seed"])
    started = time.perf_counter()
    small = ROWS[key["row"]](teacher, context, key["kept"])
    seconds = time.perf_counter() - started
    example = context.example
    whole_latency, latency = Latencies()(
        [teacher, small],
        example,
        Timing(runtime=RUNTIME, threads=arguments.threads, seconds=LATENCY_SECONDS),
    )
    before = accuracy(small, data.test, data.preprocessing)
    _train(small, teacher, data, key, arguments)
    return {
        "macs_ratio": count_macs(small, example) / count_macs(teacher, example),
        "parameters": count_parameters(small),
        "widths": [m.out_channels for m in small.modules() if isinstance(m, nn.Conv2d)],
        "latency_seconds": latency,
        "latency_ratio": latency / whole_latency,
        "accuracy_before": before,
        "accuracy": accuracy(small, data.test, data.preprocessing),
        "prune_seconds": round(seconds, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _train(
    small: nn.Module,
    teacher: nn.Module,
    data: Dataset,
    key: Mapping[str, Any],
    arguments: argparse.Namespace,
) -> None:
    name = "-".join(str(value) for value in key.values()).replace(", ", "_")
    context = FitContext(
        seed=key["seed"],
        work=arguments.work / "checkpoints" / name,
        cache=arguments.work / "teacher_cache",
    )
    distill(
        small,
        teacher,
        data,
        context,
        DistillConfig(
            losses=[{"kd": {"temperature": 1.0, "weight": 0.9}}],
            label_weight=0.1,
            **{**TRAINING, "learning_rate": LEARNING_RATE, "epochs": key["epochs"]},
            cache_budget="20GB",
        ),
    )


def _table(results: list[dict[str, Any]], whole: Mapping[str, Any]) -> str:
    lines = [
        f"Machine `{this_machine().id}`, onnxruntime on {torch.__version__} exports, batch 1. The "
        f"teacher: test accuracy {whole['accuracy']:.2%}, {whole['parameters']} parameters.",
        "",
        "| MACs asked | pruner | MACs kept | parameters | latency | of the teacher's "
        "| accuracy, pruned | accuracy, trained | seed |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(results, key=lambda r: -r["kept"]):
        lines.append(
            f"| {row['kept']:.0%} | {row['row']} | {row['macs_ratio']:.1%} | {row['parameters']} "
            f"| {row['latency_seconds'] * 1e3:.3f} ms | {row['latency_ratio']:.3f} "
            f"| {row['accuracy_before']:.2%} | {row['accuracy']:.2%} | {row['seed']} |"
        )
    return "\n".join(lines) + "\n"


def _read(results: Path) -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--keep", type=float, nargs="*", default=KEEP)
    parser.add_argument("--only", nargs="*", choices=list(ROWS), help="names of rows")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/pruning_quality"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
