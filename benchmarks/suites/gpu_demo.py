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
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.shared.gpu_models import write_artefacts
from benchmarks.shared.gpu_suite import folder_of, gpu_or_dry_run, gpu_parser_of, said
from benchmarks.shared.gpu_turns import in_turns, milliseconds, open_variants, ran
from benchmarks.shared.running import here, table, write_result
from kdeploy.bench.accuracy import evaluate
from kdeploy.data.load import load
from kdeploy.machine import Machine
from kdeploy.recipe.resolve import data_reference
from kdeploy.runtimes.run import open_runtime
from kdeploy.store.model_io import load_model

MODELS = Path(__file__).parents[2] / "models"
BUILD = f"{MODELS / 'digits' / 'build.py'}:resnet"
ARGS = {"width": 32, "depth": 3}
DRY_ARGS = {"width": 32, "depth": 1}
DATA = {"name": "digits", "size": 16, "validation_fraction": 0.15}
REFERENCE = "fp32"


def main() -> None:
    """Train, compress, run, write."""
    arguments = _arguments()
    with gpu_or_dry_run(arguments), tempfile.TemporaryDirectory() as temporary:
        machine = here()
        teacher = _trained(Path(temporary), arguments)
        result = _measured(teacher, Path(temporary), arguments)
        text = _table(result, machine)
        print(text)
        if not arguments.dry_run:
            folder = folder_of(arguments, machine)
            result["machine"] = machine.to_dict()
            write_result("gpu_demo", result, text, machine, folder=folder)


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


def _table(result: dict[str, Any], machine: Machine) -> str:
    rows = [
        [
            *(label, f"{result['accuracy'][label]:.2%}", str(size)),
            *(milliseconds(facts[key]) for key in ("device_seconds", "end_to_end_seconds")),
            ran(facts["proof"]),
        ]
        for size, times in result["times"].items()
        for label, facts in times.items()
    ]
    lines = [
        f"# The demo's teacher: {machine.gpu or machine.cpu}",
        "",
        f"{said('gpu_demo', machine)} Accuracy of the executed model on {result['num_test']} test "
        "images.",
        "",
        *table("variant | top-1 | batch | on the device | end to end | ran", rows, right=(1, 2)),
    ]
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = gpu_parser_of(__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    return parser.parse_args()


if __name__ == "__main__":
    main()
