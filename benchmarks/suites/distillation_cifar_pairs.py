"""The papers' pairs of networks: which loss wins where, equal budgets, three seeds.

    python -m benchmarks.suites.distillation_cifar_pairs [--pairs NAME ...] [--items 54000]
        [--epochs 30] [--teacher-epochs 60] [--seeds 3] [--work DIR]

ResNet-56 to ResNet-20, WRN-40-2 to WRN-16-2, WRN-40-2 to MobileNetV2 of half the width: shapes of
CRD (Tian et al., ICLR 2020, arXiv:1910.10699, tables 1 and 2), built by pytorchcv. In place of
CIFAR-100 stands Fashion-MNIST, padded to 32 x 32. The six losses that did best in
`distillation_table.py`, beside no distillation; all rows of a pair take the same steps at the same
rate, and test accuracy is that of the last epoch: nothing was chosen by it.

One line a training goes to `results.jsonl` in the work folder; a training that is there is not
repeated, an interrupted one goes on from its last epoch. A row of fewer items or epochs says so.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.shared.distillation_rows import NONE, read, table
from kdeploy.data.contract import Dataset, Split
from kdeploy.data.load import DataReference, load
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.pipeline.building import load_weights
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, Supervised, accuracy, fit

PADDING = 2
"""Pixels on each side: 28 x 28 becomes the 32 x 32 of CIFAR."""
TRAINING = {
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "schedule": "one_cycle",
    "weight_decay": 5e-4,
    "keep": "last",
}
VIEWS = 4
AUGMENT = ("random_crop", "horizontal_flip")
POOL = "features.final_pool"
TEACHER = "teacher"
CACHE = "20GB"
PLAIN = {"num_classes": 10, "in_channels": 1, "in_size": (32, 32)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Who teaches, and who learns; both have a module POOL."""

    teacher: Callable[[], nn.Module]
    student: Callable[[], nn.Module]


def wide_resnet(blocks: int) -> nn.Module:
    """Return WRN-`blocks`-2."""
    from pytorchcv.models.wrn_cifar import get_wrn_cifar

    return get_wrn_cifar(blocks=blocks, width_factor=2, **PLAIN)


def resnet(blocks: int) -> nn.Module:
    """Return the ResNet of `blocks` layers of section 4.2 of arXiv:1512.03385."""
    from pytorchcv.models.resnet_cifar import get_resnet_cifar

    return get_resnet_cifar(blocks=blocks, bottleneck=False, **PLAIN)


def mobilenet() -> nn.Module:
    """Return MobileNetV2 of half the width; its first convolution keeps the resolution."""
    from pytorchcv.models.mobilenetv2 import get_mobilenetv2

    network = get_mobilenetv2(width_scale=0.5, **PLAIN)
    network.features.init_block.conv.stride = (1, 1)
    network.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return network


PAIRS: Mapping[str, Pair] = {
    "resnet": Pair(teacher=lambda: resnet(56), student=lambda: resnet(20)),
    "wrn": Pair(teacher=lambda: wide_resnet(40), student=lambda: wide_resnet(16)),
    "mobilenet": Pair(teacher=lambda: wide_resnet(40), student=mobilenet),
}


KD = {"temperature": 4.0, "weight": 0.9}
STANDARDIZED = {"temperature": 2.0, "weight": 9.0, "standardize": True}
ROWS: Mapping[str, dict[str, Any]] = {
    NONE: {},
    "kd, T 4": {"losses": [{"kd": KD}], "label_weight": 0.1},
    "kd, standardised": {"losses": [{"kd": STANDARDIZED}], "label_weight": 0.1},
    "dkd": {"losses": [{"dkd": {"temperature": 4.0, "beta": 2.0}}], "label_weight": 1.0},
    "dist": {"losses": [{"dist": {"temperature": 1.0, "weight": 2.0}}], "label_weight": 1.0},
    "nkd": {"losses": [{"nkd": {}}], "label_weight": 1.0},
    "similarity": {
        "losses": [{"similarity": {"layers": {POOL: POOL}, "weight": 3000.0}}],
        "label_weight": 1.0,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What every row of a table spends, and where its work is kept."""

    items: int
    epochs: int
    teacher_epochs: int
    work: Path

    @property
    def results(self) -> Path:
        """The file of one line a training."""
        return self.work / "results.jsonl"

    def known(self, **key: Any) -> list[dict[str, Any]]:
        """Return the lines of this budget that have these values."""
        wanted = {"items": self.items, "teacher_epochs": self.teacher_epochs, **key}
        return [line for line in read(self.results) if wanted.items() <= line.items()]

    def keep(self, **line: Any) -> None:
        """Add a line."""
        found = {"items": self.items, "teacher_epochs": self.teacher_epochs, **line}
        with self.results.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(found, flush=True)

    def context(self, name: str, seed: int = 0) -> FitContext:
        """Return where a training keeps its epochs, and all of them the teachers' answers."""
        own = self.work / "checkpoints" / f"{name}-{self.items}-{self.teacher_epochs}"
        return FitContext(seed=seed, work=own, cache=self.work / "teacher_cache")


def main() -> None:
    """Train what is missing, print a table a pair."""
    arguments = _arguments()
    budget = Budget(
        items=arguments.items,
        epochs=arguments.epochs,
        teacher_epochs=arguments.teacher_epochs,
        work=arguments.work,
    )
    budget.work.mkdir(parents=True, exist_ok=True)
    data = padded(load(DataReference(name="fashion_mnist", augment=AUGMENT)), arguments.items)
    for name in arguments.pairs:
        teacher = _teacher(name, data, budget)
        for seed in range(arguments.seeds):
            for row in ROWS:
                key = {"pair": name, "row": row, "seed": seed, "epochs": budget.epochs}
                if not budget.known(**key):
                    started = time.process_time()
                    reached = _student(key, teacher, data, budget)
                    spent = round(time.process_time() - started, 1)
                    budget.keep(**key, accuracy=reached, process_seconds=spent)
        rows = [line for line in budget.known(pair=name) if line["row"] != TEACHER]
        print(f"\n{_heading(name, budget)}\n\n{table(rows, budget.epochs)}")


def padded(data: Dataset, items: int) -> Dataset:
    """Return the data with a margin of zeros, its parts cut to their first items.

    Nothing is chosen on the validation part: it need not cost more than the training.
    """
    sizes = {"train": items, "validation": min(items, len(data.validation)) // 8, "test": None}
    parts = {
        name: Split(x=_pad(getattr(data, name).x[:size]), y=getattr(data, name).y[:size])
        for name, size in sizes.items()
    }
    shape = parts["train"].x.shape[1:]
    return replace(data, preprocessing=replace(data.preprocessing, shape=shape), **parts)


def _pad(pictures: Any) -> Any:
    return torch.nn.functional.pad(torch.as_tensor(pictures), (PADDING,) * 4).numpy()


def _teacher(name: str, data: Dataset, budget: Budget) -> nn.Module:
    model = _fresh(PAIRS[name].teacher, 0)
    num_parameters = sum(p.numel() for p in model.parameters())
    label = f"teacher-{num_parameters}"
    weights = budget.work / f"{label}-{budget.items}-{budget.teacher_epochs}.safetensors"
    if not weights.exists():
        config = TrainingConfig(**TRAINING, epochs=budget.teacher_epochs)
        fit(Supervised(model), data, budget.context(label), config)
        save_file(model.state_dict(), weights)
    model = load_weights(model, weights).model
    if not budget.known(pair=name, row=TEACHER):
        reached = accuracy(model, data.test, data.preprocessing)
        budget.keep(pair=name, row=TEACHER, accuracy=reached, num_parameters=num_parameters)
    return model


def _student(key: Mapping[str, Any], teacher: nn.Module, data: Dataset, budget: Budget) -> float:
    student = _fresh(PAIRS[key["pair"]].student, key["seed"])
    training = {**TRAINING, "epochs": budget.epochs, "views": VIEWS}
    context = budget.context("-".join(str(value) for value in key.values()), key["seed"])
    if ROWS[key["row"]]:
        config = DistillConfig(**training, cache_budget=CACHE, **ROWS[key["row"]])
        student = distill(student, teacher, data, context, config).model
    else:
        fit(Supervised(student), data, context, TrainingConfig(**training))
    return accuracy(student, data.test, data.preprocessing)


def _fresh(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _heading(name: str, budget: Budget) -> str:
    (teacher,) = budget.known(pair=name, row=TEACHER)
    num_parameters = sum(p.numel() for p in PAIRS[name].student().parameters())
    return (
        f"`{name}`: a teacher of {teacher['num_parameters']} parameters, {teacher['accuracy']:.2%} "
        f"after {budget.teacher_epochs} epochs; a student of {num_parameters}; "
        f"{budget.items} pictures"
    )


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", nargs="*", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--items", type=int, default=54000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--teacher-epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/distillation_cifar_pairs"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
