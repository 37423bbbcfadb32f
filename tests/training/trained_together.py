"""What test_distributed.py trains: by itself in one process, by this file in several."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kdeploy.data.contract import Dataset, Preprocessing, Split
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.sparsity.zeros import HeldZeros
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, Supervised, fit

# 83 items in steps of 16: a last step of 3, too few to be shared.
TRAINING = {"epochs": 3, "batch_size": 16, "learning_rate": 0.05, "precision": "fp32"}
ATTENTION = {"attention": {"layers": {"2": "2"}, "weight": 10.0}}


def network(*, seed, width):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(width, width, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(9 * width, 4),
    )


def in_blocks():
    torch.manual_seed(0)
    blocks = (nn.Sequential(nn.Linear(36, 36), nn.ReLU()) for _ in range(3))
    return nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Sequential(*blocks), nn.Linear(36, 4))


def edges(count, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 4
    x = rng.normal(size=(count, 1, 12, 12)) + y[:, None, None, None] * np.linspace(-1, 1, 12)
    return Split(x=x.astype(np.float32), y=y)


def data():
    return Dataset(
        name="edges",
        train=edges(83, 1),
        validation=edges(33, 2),
        test=edges(4, 3),
        preprocessing=Preprocessing(shape=(1, 12, 12), classes=("a", "b", "c", "d")),
        fingerprint="edges",
    )


def outcomes(folder, *, devices):
    """Train in some ways; return of each the history's numbers and the weights."""
    context = FitContext(seed=3, device="cpu", devices=devices, cache=folder / "cache")
    settings = {
        "supervised": {},
        "updates": {"lora": {"rank": 2, "targets": ["5"]}, "keep": "last", "ema": 0.9},
        "accumulated": {"accumulate": 3, "clip_norm": 0.5, "ema": 0.9, "keep": "last"},
    }
    made = {}
    for name, options in settings.items():
        student = network(seed=0, width=6)
        result = fit(Supervised(student), data(), context, TrainingConfig(**TRAINING, **options))
        made[name] = (numbers(result), student.state_dict())
    for name, weight in (("distilled", 0.5), ("scheduled", {"linear": {"start": 0.0, "end": 1.0}})):
        student = network(seed=0, width=6)
        losses = [{"kd": {"temperature": 2.0, "weight": weight}}, ATTENTION]
        teacher = network(seed=1, width=9)
        done = distill(student, teacher, data(), context, DistillConfig(losses=losses, **TRAINING))
        made[name] = (numbers(done.fit), student.state_dict())
    student = network(seed=0, width=6)
    student[2].weight.data[:, ::2] = 0
    held = replace(context, constraints=(HeldZeros(["2.weight"]),))
    result = fit(Supervised(student), data(), held, TrainingConfig(**TRAINING))
    assert (student[2].weight[:, ::2] == 0).all()
    made["sparse"] = (numbers(result), student.state_dict())
    student = in_blocks()
    options = {"checkpoint_activations": True, "keep": "last"}
    result = fit(Supervised(student), data(), context, TrainingConfig(**TRAINING, **options))
    made["recomputed"] = (numbers(result), student.state_dict())
    kept = replace(context, work=folder / "work")
    for name in ("stored", "found"):
        student = network(seed=0, width=6)
        result = fit(Supervised(student), data(), kept, TrainingConfig(**TRAINING))
        made[name] = (numbers(result), student.state_dict())
    return made


def numbers(result):
    return [[r.loss, *r.losses.values(), r.validation_accuracy] for r in result.history]


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    made = outcomes(out, devices=2)
    torch.save(made, out / f"{torch.distributed.get_rank()}.pt")
