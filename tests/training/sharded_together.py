"""What test_sharding.py trains in two processes: with weights in each, and with divided ones."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from trained_together import TRAINING, data, edges

from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.sparsity.zeros import HeldZeros
from kdeploy.training.config import TrainingConfig
from kdeploy.training.early_look import EarlyLook
from kdeploy.training.fit import FitContext, Supervised, fit
from kdeploy.training.states import part_of

WIDTH = 36
ADAMW = {"optimizer": "adamw", "learning_rate": 0.01}
AVERAGED = {"ema": 0.9, "keep": "best", "clip_norm": 0.5, **ADAMW}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x):
        return x + torch.relu(self.inner(self.norm(x)))


class Network(nn.Module):
    """Three blocks of their own, two that share their weights, and a batch norm."""

    def __init__(self, width=7):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, width, 2, stride=2), nn.BatchNorm2d(width))
        self.narrow = nn.Conv2d(width, 1, 1)
        self.blocks = nn.ModuleList([Block() for _ in range(5)])
        self.blocks[4].inner.weight = self.blocks[3].inner.weight
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x):
        x = self.narrow(self.first(x)).flatten(1)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def network(seed=0):
    torch.manual_seed(seed)
    return Network()


def trained(folder, *, sharded, work=None, **options):
    student = network()
    context = FitContext(seed=3, device="cpu", devices=2, cache=folder / "cache", work=work)
    config = TrainingConfig(**{**TRAINING, "fully_shard": sharded, **options})
    return of_training(fit(Supervised(student), data(), context, config), student)


def of_training(result, student):
    numbers = [[r.loss, *r.losses.values(), r.validation_accuracy] for r in result.history]
    return numbers, {name: value.clone() for name, value in student.state_dict().items()}


def distilled(folder, *, sharded):
    """Two teachings, of answers and of features in and of the blocks, with adapters."""
    layers = {"blocks.1": "blocks.2", "blocks.2.inner": "blocks.3.inner"}
    losses = [
        {"kd": {"weight": {"linear": {"start": 0.0, "end": 1.0}}}},
        {"hints": {"layers": layers, "weight": 0.5}},
    ]
    student, teacher = network(), network(1)
    context = FitContext(seed=3, device="cpu", devices=2, cache=folder / "cache")
    config = DistillConfig(losses=losses, fully_shard=sharded, **{**TRAINING, **ADAMW})
    return of_training(distill(student, teacher, data(), context, config).fit, student)


def pruned(folder, *, sharded):
    student = network()
    student.blocks[0].inner.weight.data[:, ::2] = 0
    context = FitContext(seed=3, device="cpu", devices=2)
    context = replace(context, constraints=(HeldZeros(["blocks.0.inner.weight"]),))
    config = TrainingConfig(**TRAINING, fully_shard=sharded)
    return of_training(fit(Supervised(student), data(), context, config), student)


def looked_at(folder, *, sharded):
    student = network()
    context = FitContext(seed=3, device="cpu", devices=2, look=EarlyLook(fraction=0.5))
    config = TrainingConfig(**TRAINING, fully_shard=sharded)
    result = fit(Supervised(student), data(), context, config)
    numbers, weights = of_training(result, student)
    return [*numbers, [float(result.seen.scores.mean())]], weights


def outcomes(folder, *, sharded):
    """Train in some ways; return of each the history's numbers and the weights."""
    settings = {
        "supervised": {},
        "averaged": AVERAGED,
        "accumulated": {"accumulate": 3, "clip_norm": 0.5},
        "sought": {"epochs": 4, "batch_size": 16, "learning_rate": None},
        "recomputed": {"checkpoint_activations": True, **ADAMW},
        "updates": {"lora": {"rank": 2}, "ema": 0.9, "keep": "best", **ADAMW},
    }
    made = {n: trained(folder, sharded=sharded, **options) for n, options in settings.items()}
    for way in (distilled, pruned, looked_at):
        made[way.__name__] = way(folder, sharded=sharded)
    return made


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    import time
    import traceback
    for sharded in ((True,) if "only" in sys.argv else (False, True)):
        t = time.time()
        made = outcomes(out, sharded=sharded)
        torch.save(made, out / f"{sharded}{torch.distributed.get_rank()}.pt")
        print(sharded, time.time() - t)
