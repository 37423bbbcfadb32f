"""What INT8 costs a student on Fashion-MNIST: distilled or not, by calibration or by training.

    python benchmarks/suites/int8_quality.py [--epochs 10] [--qat-epochs 3] [--seeds 1] [--work DIR]

Students of width 8, depth 1 (19 810 parameters) train alike, one on labels alone and one with the
shipped teacher beside them (kd at temperature 1). Each is exported as it is, after `int8_ptq` with
its defaults, and after `int8_qat` with its defaults, taught by the float student. Accuracy is that
of the exported file on the 10 000 test images in each runtime; nothing was chosen by it. One line
a file goes to `results.jsonl` in the work folder; a row that is there is not repeated, an
interrupted training goes on from its last epoch. Prints a markdown table; exits 1 where `int8_qat`
is more than 0.2 points, or `int8_ptq` more than 0.5 points, below the float student.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from benchmarks.suites.distillation_table import TRAINING, model, shipped_teacher
from kdeploy.bench.accuracy import evaluate
from kdeploy.compress.compressors.int8_ptq import int8_ptq
from kdeploy.compress.compressors.int8_qat import int8_qat
from kdeploy.compress.contract import CompressContext, StepTraining
from kdeploy.data.contract import Dataset
from kdeploy.data.load import DataReference, load
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.export.run import export
from kdeploy.pipeline.building import load_weights
from kdeploy.registry import find, validate
from kdeploy.runtimes.run import this_machine
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, Supervised, fit

STUDENTS = ("labels alone", "distilled")
STEPS = ("float", "int8_ptq", "int8_qat")
RUNTIMES = ("onnxruntime_cpu", "openvino")
BUDGETS = {"int8_ptq": 0.005, "int8_qat": 0.002}
CHUNK = 64


def main() -> None:
    """Make and measure what is missing, print the table, judge it."""
    arguments = _arguments()
    data = load(DataReference(name="fashion_mnist", augment=("random_crop", "horizontal_flip")))
    results = arguments.work / "results.jsonl"
    arguments.work.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        for name in STUDENTS:
            for step in STEPS:
                key = {"student": name, "step": step, "seed": seed, **_epochs(arguments)}
                if any(key.items() <= known.items() for known in _read(results)):
                    continue
                found = {**key, **_measured(data, key, arguments)}
                with results.open("a") as file:
                    file.write(json.dumps(found) + "\n")
                print(found, flush=True)
    rows = [r for r in _read(results) if _epochs(arguments).items() <= r.items()]
    print(_table(rows))
    sys.exit(0 if _holds(rows) else 1)


def _measured(data: Dataset, key: Mapping[str, Any], arguments: argparse.Namespace) -> Any:
    student = _student(data, key, arguments)
    started = time.perf_counter()
    small = _compressed(student, data, key, arguments)
    seconds = time.perf_counter() - started
    path = arguments.work / "files" / f"{_name(key)}-{key['step']}.onnx"
    exported = export(small, "onnx", {}, data, path)
    accuracies = {}
    for name in RUNTIMES:
        session = find("runtime", name).load()()
        session.open(path)
        metrics, _ = evaluate(session.infer, data, batch_size=CHUNK)
        session.close()
        accuracies[name] = metrics["accuracy.top1"]
    return {**accuracies, "size_bytes": exported.size_bytes, "seconds": round(seconds, 1)}


def _student(data: Dataset, key: Mapping[str, Any], arguments: argparse.Namespace) -> nn.Module:
    """Return the trained float student, from its file where there is one."""
    student = model(seed=key["seed"], width=8, depth=1)
    file = arguments.work / f"{_name(key)}.safetensors"
    if not file.exists():
        context = _context(key, arguments, "float")
        training = {**TRAINING, "epochs": arguments.epochs}
        if key["student"] == "distilled":
            kd = [{"kd": {"temperature": 1.0, "weight": 0.9}}]
            distill(
                student,
                shipped_teacher(),
                data,
                context,
                DistillConfig(losses=kd, label_weight=0.1, **training),
            )
        else:
            fit(Supervised(student), data, context, TrainingConfig(**training))
        save_file(student.state_dict(), file)
    return load_weights(student, file).eval()


def _compressed(
    student: nn.Module, data: Dataset, key: Mapping[str, Any], arguments: argparse.Namespace
) -> nn.Module:
    if key["step"] == "float":
        return student
    if key["step"] == "int8_ptq":
        return int8_ptq(student, CompressContext(data=data, seed=key["seed"]))
    technique = find("compressor", "int8_qat")
    given = {"epochs": arguments.qat_epochs}
    parameters = validate(technique.parameters, given, where="int8_qat")

    def train(learner: nn.Module, teacher: nn.Module, asked_for: StepTraining) -> None:
        training = {k: parameters[k] for k in ("epochs", "learning_rate")}
        distill(
            learner,
            teacher,
            data,
            _context(key, arguments, asked_for.name),
            DistillConfig(**training),
        )

    context = CompressContext(data=data, seed=key["seed"], train=train)
    return int8_qat(student, context, **parameters)


def _context(key: Mapping[str, Any], arguments: argparse.Namespace, name: str) -> FitContext:
    work = arguments.work / "checkpoints" / f"{_name(key)}-{name}"
    return FitContext(seed=key["seed"], work=work, cache=arguments.work / "teacher_cache")


def _name(key: Mapping[str, Any]) -> str:
    return f"{key['student'].replace(' ', '_')}-{key['seed']}-{key['epochs']}"


def _epochs(arguments: argparse.Namespace) -> dict[str, int]:
    return {"epochs": arguments.epochs, "qat_epochs": arguments.qat_epochs}


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"Machine `{this_machine().id}`, accuracy of the exported file on 10 000 test images.",
        "",
        "| student | seed | step | size | " + " | ".join(RUNTIMES) + " | against float |",
        "|---|---:|---|---:|" + "---:|" * len(RUNTIMES) + "---:|",
    ]
    for row in rows:
        found = " | ".join(f"{row[name]:.2%}" for name in RUNTIMES)
        lines.append(
            f"| {row['student']} | {row['seed']} | {row['step']} "
            f"| {row['size_bytes'] / 1024:.0f} KiB | {found} | {100 * _delta(row, rows):+.2f} pp |"
        )
    return "\n".join(lines) + "\n"


def _delta(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the difference to the float student's file, the worse one of the runtimes."""
    same = {"student": row["student"], "seed": row["seed"], "step": "float"}
    [whole] = [r for r in rows if same.items() <= r.items()]
    return min(float(row[name] - whole[name]) for name in RUNTIMES)


def _holds(rows: Sequence[Mapping[str, Any]]) -> bool:
    return all(_delta(row, rows) >= -BUDGETS[row["step"]] for row in rows if row["step"] in BUDGETS)


def _read(results: Path) -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10, help="of the float students")
    parser.add_argument("--qat-epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/int8_quality"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
