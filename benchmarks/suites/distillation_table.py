"""Every loss and scheme on Fashion-MNIST, beside no distillation at all.

    python benchmarks/suites/distillation_table.py [--epochs 5] [--seeds 3] [--work DIR]

The shipped teacher (width 32, depth 3) and a student of width 8, depth 1 (19 810 parameters). Every
row trains for the same epochs on the same two views of the 54 000 training images, crop and flip,
with the same optimizer; test accuracy is that of the last epoch, so nothing was chosen by it. One
line a training goes to `results.jsonl` in the work folder; a training that is there is not
repeated, an interrupted one goes on from its last epoch. Prints a markdown table. What a step
costs is measured by `distillation_throughput.py`, interleaved.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from benchmarks.shared.distillation_rows import NONE, read, table
from kdeploy.data.contract import Dataset, Split
from kdeploy.data.load import DataReference, load
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.contract import cannot_build
from kdeploy.distill.run import distill
from kdeploy.pipeline.building import auxiliary_model, fresh_model, load_weights
from kdeploy.store.references import ModelReference
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, Supervised, accuracy, fit

FOLDER = Path(__file__).parents[2] / "models" / "fashion_mnist"
TRAINING = {
    "learning_rate": 0.2,
    "schedule": "one_cycle",
    "weight_decay": 1e-4,
    "views": 2,
    "keep": "last",
}
CACHE = "20GB"
LAST, DEEP, POOLED = {"3": "3"}, {"2": "2", "3": "3"}, {"4.1": "4.1"}
KD = {"kd": {"temperature": 1.0, "weight": 0.9}}
MIDDLE = {"build": f"{FOLDER / 'build.py'}:resnet", "args": {"width": 16, "depth": 2}}
SECOND = "second_teacher.safetensors"
"""Of the ensemble, beside the shipped one: MIDDLE, trained without a teacher for as long."""


def losses(name: str, *, label_weight: Any = 1.0, **keys: Any) -> dict[str, Any]:
    """Return a row of one loss beside the labels."""
    return {"losses": [{name: keys}], "label_weight": label_weight}


ROWS: Mapping[str, dict[str, Any]] = {
    NONE: {},
    "kd, T 4": losses("kd", temperature=4.0, weight=0.9, label_weight=0.1),
    "kd, T 1": losses("kd", temperature=1.0, weight=0.9, label_weight=0.1),
    "kd, standardised": losses(
        "kd", temperature=2.0, weight=9.0, standardize=True, label_weight=0.1
    ),
    "dkd": losses("dkd", temperature=1.0, beta=2.0),
    "dist": losses("dist", temperature=1.0, weight=2.0),
    "nkd": losses("nkd"),
    "jsd": losses("jsd", label_weight=0.1),
    "soft_labels, no labels": losses("soft_labels", temperature=1.0, label_weight=0.0),
    "hints": losses("hints", layers=LAST),
    "attention": losses("attention", layers=DEEP, weight=1000.0),
    "review": losses("review", layers=DEEP),
    "nst": losses("nst", layers=LAST, weight=50.0),
    "similarity": losses("similarity", layers=POOLED, weight=3000.0),
    "rkd": losses("rkd", layers=POOLED),
    "correlation": losses("correlation", layers=POOLED, weight=0.02),
    "crd": losses("crd", layers=POOLED, weight=0.8),
    "kd + hints": {"losses": [KD, {"hints": {"layers": LAST}}], "label_weight": 0.1},
    "kd fades, labels grow": losses(
        "kd",
        temperature=1.0,
        weight={"linear": {"start": 0.9, "end": 0.1}},
        label_weight={"linear": {"start": 0.1, "end": 0.9}},
    ),
    "kd, adaptive": losses(
        "kd", temperature=1.0, weight={"adaptive": {"start": 0.9}}, label_weight=0.5
    ),
}


def schemes(work: Path) -> Mapping[str, dict[str, Any]]:
    """Return the rows of schemes; whoever else teaches or learns is of width 16, depth 2."""
    kd = {"losses": [KD], "label_weight": 0.1}
    second = {**MIDDLE, "weights": work / SECOND}
    with_parameters = {
        "ensemble, mean": ("ensemble", {"teachers": [second]}),
        "ensemble, random": ("ensemble", {"teachers": [second], "how": "random"}),
        "assistants": ("assistants", {"models": [MIDDLE]}),
        "generations": ("generations", {"count": 2}),
        "mutual": ("mutual", {}),
        "mutual, a wider peer": ("mutual", {"peers": [MIDDLE]}),
        "self_exits": ("self_exits", {"exits": ["1", "2"]}),
        "unlabelled": ("unlabelled", {}),
    }
    return {
        name: {**kd, "scheme": {scheme: parameters}, "build": auxiliary_model}
        for name, (scheme, parameters) in with_parameters.items()
    }


def main() -> None:
    """Train what is missing, print the table."""
    arguments = _arguments()
    data = load(DataReference(name="fashion_mnist", augment=("random_crop", "horizontal_flip")))
    teacher = shipped_teacher()
    results = arguments.work / "results.jsonl"
    arguments.work.mkdir(parents=True, exist_ok=True)
    _train_second(arguments, data)
    for seed in range(arguments.seeds):
        for name, row in {**ROWS, **schemes(arguments.work)}.items():
            if arguments.only and name not in arguments.only:
                continue
            key = {"row": name, "seed": seed, "epochs": arguments.epochs}
            if any(key.items() <= known.items() for known in read(results)):
                continue
            started = time.perf_counter()
            student = _train(row, teacher, data, arguments, key)
            found = {
                **key,
                "accuracy": accuracy(student, data.test, data.preprocessing),
                "seconds": round(time.perf_counter() - started, 1),
            }
            with results.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(found, flush=True)
    print(table(read(results), arguments.epochs))


def _train_second(arguments: Any, data: Dataset) -> None:
    file = arguments.work / SECOND
    if not file.exists():
        second = model(**MIDDLE["args"])
        work = arguments.work / "checkpoints" / "second"
        training = {**TRAINING, "epochs": arguments.epochs}
        fit(Supervised(second), data, FitContext(work=work), TrainingConfig(**training))
        save_file(second.state_dict(), file)


def _train(
    row: Mapping[str, Any], teacher: nn.Module, data: Dataset, arguments: Any, key: dict[str, Any]
) -> nn.Module:
    student = model(seed=key["seed"], width=8, depth=1)
    context = FitContext(
        seed=key["seed"],
        work=arguments.work / "checkpoints" / f"{key['row']}-{key['seed']}-{key['epochs']}",
        cache=arguments.work / "teacher_cache",
    )
    training = {**TRAINING, "epochs": arguments.epochs}
    if not row:
        fit(Supervised(student), data, context, TrainingConfig(**training))
        return student
    own = {key: value for key, value in row.items() if key != "build"}
    config = DistillConfig(**training, cache_budget=CACHE, **own)
    build = row.get("build", cannot_build)
    result = distill(student, teacher, data, context, config, build=build)
    return result.model


def first_items(data: Dataset, count: int) -> Dataset:
    """Return the data with few enough items that candidates can take turns."""
    few = {"train": count, "validation": 256}
    parts = {
        name: Split(x=getattr(data, name).x[:size], y=getattr(data, name).y[:size])
        for name, size in few.items()
    }
    return replace(data, **parts)


def shipped_teacher() -> nn.Module:
    """Return the teacher with its weights."""
    return load_weights(model(width=32, depth=3), FOLDER / "teacher.safetensors").model


def model(*, seed: int = 0, **arguments: int) -> nn.Module:
    """Return a fresh residual network."""
    reference = ModelReference(build="build.py:resnet", args=arguments, folder=FOLDER)
    return fresh_model(reference, seed)


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="names of rows")
    parser.add_argument("--work", type=Path, default=Path("runs/distillation_table"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
