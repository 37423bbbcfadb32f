"""What test_sharding.py trains in two processes: with all weights in each, and divided."""

from __future__ import annotations

import copy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.errors import ModelError, TrainingDiverged
from kdeploy.sparsity.zeros import HeldZeros
from kdeploy.training import divergence_checks, validation
from kdeploy.training.config import TrainingConfig
from kdeploy.training.early_look import EarlyLook
from kdeploy.training.fit import FitContext, Supervised, fit
from kdeploy.training.loop import Training
from kdeploy.training.states import part_of
from tests.tiny.language import llama_config, text_data
from tests.training.trained_together import data, numbers

WIDTH = 36
# 83 items in steps of 40: a last step of 3, too few to be shared.
TRAINING = {"epochs": 2, "batch_size": 40, "learning_rate": 0.05, "precision": "fp32"}
ADAMW = {"optimizer": "adamw", "learning_rate": 0.01}
AVERAGED = {"ema": 0.9, "keep": "best", "clip_norm": 0.5, **ADAMW}
WAYS = {
    "supervised": {},
    "averaged": AVERAGED,
    "accumulated": {"accumulate": 3, "clip_norm": 0.5},
    "sought": {"epochs": 3, "batch_size": 16, "learning_rate": None},
    "updates": {"lora": {"rank": 2}, "ema": 0.9, "keep": "best", **ADAMW},
}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x):
        return x + torch.relu(self.inner(self.norm(x)))


class Network(nn.Module):
    """Three blocks with weights of their own, two that share one, a batch norm and an LSTM."""

    def __init__(self):
        super().__init__()
        # No bias: behind it the norm takes any away, and Adam steps by the sign of what is left.
        self.first = nn.Sequential(nn.Conv2d(1, 7, 2, stride=2, bias=False), nn.BatchNorm2d(7))
        self.narrow = nn.Conv2d(7, 1, 1)
        self.rows = nn.LSTM(6, 6, batch_first=True)
        self.blocks = nn.ModuleList([Block() for _ in range(5)])
        self.blocks[4].inner.weight = self.blocks[3].inner.weight
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x):
        x = self.narrow(self.first(x))
        x = x.flatten(1) + self.rows(x[:, 0])[0].flatten(1)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Unreadable(nn.Module):
    """Answers with numbers while it is trained only."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        return self.inner(x) if self.training else self.inner(x) / 0


class Stopped(Exception):
    """Training was interrupted."""


def network(seed=0):
    torch.manual_seed(seed)
    return Network()


def plain():
    """Return a network without batch norm: one process trains it as two do."""
    torch.manual_seed(0)
    blocks = nn.Sequential(*(Block() for _ in range(3)))
    return nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), blocks, nn.Linear(WIDTH, 4))


def llama():
    from transformers import LlamaForCausalLM

    from kdeploy.torch_module.transformers_outputs import TextLogits

    torch.manual_seed(0)
    return TextLogits(LlamaForCausalLM(llama_config()))


def trained(student, context=None, *, items=None, **options):
    context = context or FitContext(seed=3, device="cpu", devices=2)
    config = TrainingConfig(**{**TRAINING, **options})
    result = fit(Supervised(student), items or data(), context, config)
    seen = [[float(result.seen.scores.mean())]] if result.seen else []
    return [*numbers(result), *seen], weights_of(student)


def weights_of(student):
    return {name: value.clone() for name, value in student.state_dict().items()}


def distilled(folder, *, fully_shard):
    """Learn answers and features in and of the blocks, the latter by trained adapters."""
    layers = {"blocks.1": "blocks.2", "blocks.2.inner": "blocks.3.inner"}
    losses = [
        {"kd": {"weight": {"linear": {"start": 0.0, "end": 1.0}}}},
        {"hints": {"layers": layers, "weight": 0.5}},
    ]
    student, teacher = network(), network(1)
    context = FitContext(seed=3, device="cpu", devices=2, cache=folder / "cache")
    config = DistillConfig(losses=losses, fully_shard=fully_shard, **{**TRAINING, **ADAMW})
    result = distill(student, teacher, data(), context, config)
    return numbers(result.fit), weights_of(student)


def outcomes(folder, *, fully_shard):
    """Train in some ways; return of each the history's numbers and the weights."""
    made = {
        name: trained(network(), fully_shard=fully_shard, **options)
        for name, options in WAYS.items()
    }
    made["distilled"] = distilled(folder, fully_shard=fully_shard)
    context = FitContext(seed=3, device="cpu", devices=2)
    student = network()
    student.blocks[0].inner.weight.data[:, ::2] = 0
    held = replace(context, constraints=(HeldZeros(["blocks.0.inner.weight"]),))
    made["pruned"] = trained(student, held, fully_shard=fully_shard)
    assert (student.blocks[0].inner.weight[:, ::2] == 0).all()
    looked = replace(context, look=EarlyLook(fraction=0.5))
    made["looked at"] = trained(network(), looked, fully_shard=fully_shard)
    options = {"lora": {"rank": 2}, "checkpoint_activations": True, "fully_shard": fully_shard}
    made["language"] = trained(llama(), items=text_data(), **options, **ADAMW)
    made["undisturbed"] = trained(plain(), fully_shard=fully_shard, **AVERAGED)
    return made


def interrupted(folder, *, fully_shard):
    """Stop after the first epoch; return what this process held then, and all of it, in bytes."""
    held = []
    save = Training._save

    def stop(training):
        save(training)
        tensors = [*training.objective.parameters(), *training.average.tensors.values()]
        tensors += [t for s in training.optimizer.state.values() for t in s.values() if t.ndim]
        held.extend((part_of(t).nbytes, t.nbytes) for t in tensors)
        raise Stopped

    context = FitContext(seed=3, device="cpu", devices=2, work=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_save", stop)
        with pytest.raises(Stopped):
            trained(plain(), context, fully_shard=fully_shard, **AVERAGED)
    return [sum(part) for part in zip(*held, strict=True)]


def resumed(folder, stopped, *, fully_shard):
    """Go on from a copy of what an interrupted training left."""
    if not torch.distributed.get_rank():
        shutil.copytree(stopped, folder)
    torch.distributed.barrier()
    context = FitContext(seed=3, device="cpu", devices=2, work=folder)
    assert (folder / "last.ckpt").exists()
    return trained(plain(), context, fully_shard=fully_shard, **AVERAGED)


def again():
    """Train one model twice; in between it is a plain one."""
    student = network()
    parameters = dict(student.named_parameters())
    trained(student, fully_shard=True)
    assert all(parameters[name] is now for name, now in student.named_parameters())
    assert type(student) is Network
    assert not student.blocks[0]._forward_hooks
    assert vars(copy.deepcopy(student)).keys() == vars(network()).keys()
    return trained(student, fully_shard=True)


def errors():
    """Return what both processes say of answers and weights that are no numbers."""
    with pytest.raises(ModelError) as caught:
        trained(Unreadable(), fully_shard=True)
    found = [str(caught.value)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(divergence_checks, "LARGEST_WEIGHT", 0.9)
        with pytest.raises(TrainingDiverged) as diverged:
            trained(network(), fully_shard=True)
    return [*found, str(diverged.value)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    # Shares of 17 and 16 items, and so two batches and one: what computes together must not wait.
    validation.BATCH_SIZE = 16
    made = {
        "replicated": outcomes(out, fully_shard=False),
        "sharded": outcomes(out, fully_shard=True),
        "held": interrupted(out / "sharded", fully_shard=True),
        "again": again(),
        "errors": errors(),
    }
    interrupted(out / "replicated", fully_shard=False)
    for name, before, after in (
        ("sharded, sharded", "sharded", True),
        ("sharded, replicated", "sharded", False),
        ("replicated, sharded", "replicated", True),
    ):
        made[name] = resumed(out / name, out / before, fully_shard=after)
    torch.save(made, out / f"{torch.distributed.get_rank()}.pt")
