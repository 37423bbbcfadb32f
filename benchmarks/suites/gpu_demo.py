"""The demo's teacher on an NVIDIA GPU: accuracy of what runs, as FP16, BF16, INT8, 2:4 and both.

    python benchmarks/suites/gpu_demo.py [--epochs 15]
    python benchmarks/suites/gpu_demo.py --dry-run

Trains the teacher of `models/digits` (1.08 M parameters) with `kdeploy run`, sets it to 2:4 by
SparseGPT, quantizes both by calibration alone, and runs every variant over all test images in its
runtime. Times are taken as in `gpu_shapes.py`. `--dry-run` tries the code on the processor with
exact kernels: its accuracies hold, its times mean nothing and nothing is written. Without a GPU
it says so and ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.shared.dry_run import on_the_processor
from benchmarks.shared.gpu_models import write_artefacts
from benchmarks.shared.gpu_turns import (
    CALLS,
    ROUNDS,
    in_turns,
    milliseconds,
    open_variants,
    ran,
    results_folder,
)
from kdeploy.bench.accuracy import evaluate
from kdeploy.data.load import load
from kdeploy.machine import fingerprint
from kdeploy.payload import load_model
from kdeploy.recipe.resolve import data_reference
from kdeploy.runtimes.nvidia_driver import without_gpu
from kdeploy.runtimes.run import open_runtime

MODELS = Path(__file__).parents[2] / "models"
BUILD = f"{MODELS / 'digits' / 'build.py'}:resnet"
ARGS = {"width": 32, "depth": 3}
DRY_ARGS = {"width": 32, "depth": 1}
DATA = {"name": "digits", "size": 16, "validation_fraction": 0.15}
REFERENCE = "fp32"


def main() -> None:
    """Train, compress, run, write."""
    arguments = _arguments()
    reason = None if arguments.dry_run else without_gpu()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(0)
    machine = fingerprint()
    with tempfile.TemporaryDirectory() as temporary:
        teacher = _trained(Path(temporary), arguments)
        with on_the_processor() if arguments.dry_run else contextlib.nullcontext():
            result = _measured(teacher, Path(temporary), arguments)
    result["machine"] = machine.to_dict()
    text = _table(result)
    print(text)
    if arguments.dry_run:
        print("dry run: exact references on the processor; no time above means anything")
        return
    folder = arguments.out or results_folder(machine)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_demo.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "gpu_demo.md").write_text(text)


def _trained(folder: Path, arguments: argparse.Namespace) -> Path:
    """Return the artefact of the teacher, trained in a process of its own."""
    training: dict[str, Any] = {"learning_rate": 0.1, "schedule": "one_cycle", "batch_size": 64}
    training["epochs"] = 2 if arguments.dry_run else arguments.epochs
    teacher = {"build": BUILD, "args": _args(arguments), "train": training}
    recipe = {"name": "gpu-demo", "data": {**DATA, "augment": ["random_crop"]}, "teacher": teacher}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "kdeploy", "run", str(folder / "recipe.yaml")]
    subprocess.run([*command, "--out", str(folder / "run")], check=True, stdout=sys.stderr)
    manifests = (folder / "run" / "artifacts").glob("*/manifest.json")
    kinds = {json.loads(file.read_text())["kind"]: file.parent for file in manifests}
    return kinds["torch"]


def _args(arguments: argparse.Namespace) -> dict[str, Any]:
    return DRY_ARGS if arguments.dry_run else ARGS


def _measured(teacher: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    data = load(data_reference(DATA, MODELS, 0))
    model = load_model(teacher)
    folders = write_artefacts(
        BUILD, model, data, folder / "artefacts", args=_args(arguments), method="sparse_gpt"
    )
    opened = {REFERENCE: open_runtime("torch_cuda", teacher)}
    opened |= open_variants(folders, is_graph=not arguments.dry_run)
    accuracy = {
        label: evaluate(runtime.infer, data, batch_size=64)[0]["accuracy.top1"]
        for label, runtime in opened.items()
    }
    sizes = (1,) if arguments.dry_run else (1, 8, 64)
    batches = {size: data.preprocessing.apply(data.test.x[:size]) for size in sizes}
    return {
        "num_test": len(data.test),
        "accuracy": accuracy,
        "times": {
            size: in_turns(opened, batch, is_dry=arguments.dry_run)
            for size, batch in batches.items()
        },
    }


def _table(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"# The demo's teacher: {machine['gpu'] or machine['cpu']}",
        "",
        f"`python benchmarks/suites/gpu_demo.py`; torch {machine['versions'].get('torch')}, driver "
        f"{machine['driver']}. Accuracy of the executed model on {result['num_test']} test images. "
        f"Medians of {ROUNDS * CALLS} calls in turns, 5th to 95th percentile behind.",
        "",
        "| variant | top-1 | batch | on the device | end to end | ran |",
        "|---|---:|---:|---|---|---|",
    ]
    for size, times in result["times"].items():
        for label, facts in times.items():
            lines.append(
                f"| {label} | {result['accuracy'][label]:.2%} | {size} "
                f"| {milliseconds(facts['device_seconds'])} "
                f"| {milliseconds(facts['end_to_end_seconds'])} | {ran(facts['proof'])} |"
            )
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--out", type=Path, help="folder for the result")
    parser.add_argument("--dry-run", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
