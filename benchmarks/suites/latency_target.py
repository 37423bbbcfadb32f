"""A latency that is asked for, the one that the search reached, and the one of another run.

    python benchmarks/suites/latency_target.py [--fraction 0.5] [--seconds 20] [--repeats 3]

`prune_channels` with `target: {latency: 0.5}` on pytorchcv's `resnet18` at 224x224 with random
weights and noise: only speed is measured, never accuracy, and it does not depend on them. The
exported files are then measured by `kdeploy bench`, each in a process of its own, in turns, with
the 95 % interval of the ratio over rounds. Prints a markdown table and writes it; exits 1 when the
median run lies outside of 0.9 to 1 times what was asked for.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.shared.noise import noise
from kdeploy.bench.plan import Plan
from kdeploy.bench.run import ModelUnderTest, bench
from kdeploy.compress.compressors.prune_channels import prune_channels
from kdeploy.compress.contract import CompressContext
from kdeploy.export.run import export
from kdeploy.machine import Machine, allowed_cores
from kdeploy.pipeline.stopwatch import Latencies
from kdeploy.runtimes.run import this_machine
from kdeploy.torch_module.complexity import count_macs, count_parameters

NUM_IMAGES = 8
LOWEST = 0.9  # of what was asked for
WHOLE, PRUNED = "whole", "pruned"
RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    """Prune to the latency, measure again, write the result and judge it."""
    arguments = _arguments()
    torch.manual_seed(0)
    # Not through pytorchcv's model_provider: it imports torchvision, which nothing here needs.
    models = importlib.import_module("pytorchcv.models.resnet")
    model: nn.Module = getattr(models, arguments.model)().eval()
    data = noise((3, arguments.size, arguments.size), NUM_IMAGES)
    context = CompressContext(data=data, stopwatch=Latencies())
    started = time.perf_counter()
    small = prune_channels(
        model,
        context,
        target={"latency": arguments.fraction},
        runtime=arguments.runtime,
        latency_batch_size=arguments.batch_size,
        threads=arguments.threads,
    )
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for label, each in ((WHOLE, model), (PRUNED, small)):
            export(each, "onnx", {}, data, folder / f"{label}.onnx")
        runs = [_run(folder, arguments) for _ in range(arguments.repeats)]
    machine = this_machine()
    result = {
        "command": f"python benchmarks/suites/latency_target.py --model {arguments.model} "
        f"--size {arguments.size} --fraction {arguments.fraction:g} "
        f"--runtime {arguments.runtime} --batch-size {arguments.batch_size} "
        f"--threads {arguments.threads} --seconds {arguments.seconds:g}",
        "machine": machine.to_dict(),
        "asked": arguments.fraction,
        "search": context.report["latency"],
        "search_seconds": seconds,
        "macs": [count_macs(m, context.example) for m in (model, small)],
        "parameters": [count_parameters(m) for m in (model, small)],
        "runs": runs,
    }
    text = _table(result, machine)
    print(text)
    _write(result, text, machine, arguments)
    ratio = statistics.median(run["ratio"][0] for run in runs)
    sys.exit(0 if LOWEST * arguments.fraction <= ratio <= arguments.fraction else 1)


def _run(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    result = bench(
        [
            ModelUnderTest(
                artifact=label, label=label, path=folder / f"{label}.onnx", format="onnx"
            )
            for label in (WHOLE, PRUNED)
        ],
        Plan(
            runtimes=[arguments.runtime],
            batch_sizes=[arguments.batch_size],
            threads=[arguments.threads],
            data=None,
            accuracy=False,
            minimum_seconds=arguments.seconds,
        ),
        baseline=WHOLE,
        out=folder,
    )
    p50 = {m.label: m.value for m in result.measurements if m.metric == "latency.p50"}
    [speed_up] = [c for c in result.comparisons if c["metric"] == "latency.p50"]
    return {
        "p50_seconds": p50,
        # Of the whole model's latency, with the 95 % interval over rounds.
        "ratio": [1 / speed_up[key] for key in ("ratio", "high", "low")],
        "load": this_machine().load,
    }


def _table(result: dict[str, Any], machine: Machine) -> str:
    [chosen] = [row for row in result["search"] if row["is_chosen"]]
    macs, parameters = (small / whole for whole, small in (result["macs"], result["parameters"]))
    lines = [
        f"# A latency target: {machine.cpu}",
        "",
        f"`{result['command']}`; onnxruntime {machine.versions['onnxruntime']}, torch "
        f"{machine.versions['torch']}. Random weights and noise: speed only. The search measured "
        f"{len(result['search'])} times in {result['search_seconds']:.0f} s and kept {macs:.1%} "
        f"of the MACs, {parameters:.1%} of the parameters.",
        "",
        f"Asked: {result['asked']:g} of the latency. Reached while searching: "
        f"{chosen['latency_ratio']:.3f} ({chosen['latency_seconds'] * 1e3:.2f} ms).",
        "",
        "| independent run | load | whole p50 | pruned p50 | ratio (95 % interval) |",
        "|---:|---:|---:|---:|---|",
    ]
    for number, run in enumerate(result["runs"], 1):
        p50 = [f"{run['p50_seconds'][label] * 1e3:.2f} ms" for label in (WHOLE, PRUNED)]
        ratio, low, high = run["ratio"]
        lines.append(
            f"| {number} | {run['load']:.1f} | {p50[0]} | {p50[1]} "
            f"| {ratio:.3f} ({low:.3f} to {high:.3f}) |"
        )
    lines += [
        "",
        "| measured | of the MACs | channels | ratio | long |",
        "|---:|---:|---:|---:|---|",
    ]
    for number, row in enumerate(result["search"], 1):
        lines.append(
            f"| {number} | {row['macs_ratio']:.1%} | {row['channels_kept']} "
            f"| {row['latency_ratio']:.3f} | {'yes' if row['is_confirmed'] else ''} |"
        )
    return "\n".join(lines) + "\n"


def _write(
    result: dict[str, Any], text: str, machine: Machine, arguments: argparse.Namespace
) -> None:
    folder = arguments.out or RESULTS / re.sub(r"[^a-z0-9]+", "-", machine.cpu.lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latency_target.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "latency_target.md").write_text(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="resnet18", help="of pytorchcv.models.resnet")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--fraction", type=float, default=0.5)
    parser.add_argument("--runtime", default="onnxruntime_cpu")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=min(2, allowed_cores()))
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing a file, in rounds")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for the result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
