"""What looks at a model's answers before it chooses, for answers of every task."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.compress.compressors.drop_layers import drop_layers
from kdeploy.compress.compressors.int8_ptq import int8_ptq
from kdeploy.compress.contract import CompressContext
from kdeploy.data.contract import TaskReference
from kdeploy.data.load import DataReference, load
from tests.tiny import tasks as tiny
from tests.tiny.compressing import stopwatch

MODELS = {
    "segmentation": tiny.dense(outputs=3),
    "detection": tiny.heads(outputs=2),
    "regression": tiny.vector(outputs=2),
    "multi_label": tiny.vector(outputs=3),
    "embedding": tiny.vector(outputs=8),
    "keypoint_heatmaps": tiny.dense(outputs=2),
    "ctc": tiny.frames(outputs=len(tiny.ALPHABET) + 1),
}
GAINS = (0.4, 0.02, 0.6)


class Added(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.gain, self.inner = gain, nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return x + self.gain * self.inner(x)


class Deeper(nn.Module):
    """Blocks in front of a model, of which one does next to nothing."""

    def __init__(self, model):
        super().__init__()
        self.blocks = nn.ModuleList(Added(gain) for gain in GAINS)
        self.model = model

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.model(x)


def context_of(task, folder):
    for part, seed in (("train", 0), ("test", 1)):
        x, y = tiny.arrays_of(task, seed=seed)
        np.savez(folder / f"{part}.npz", x=x, y=y)
    files = {part: str(folder / f"{part}.npz") for part in ("train", "test")}
    own = {"alphabet": tiny.ALPHABET} if task == "ctc" else {}
    of_task = TaskReference(name=task, parameters=own)
    data = load(DataReference(name="arrays", parameters=files, task=of_task))
    return CompressContext(data=data, stopwatch=stopwatch)


@pytest.fixture(params=MODELS)
def case(request, tmp_path):
    torch.manual_seed(0)
    return Deeper(MODELS[request.param]).eval(), context_of(request.param, tmp_path)


def test_the_block_goes_that_the_answers_miss_least(case):
    model, context = case
    drop_layers(model, context, ignore=("model", "model.*", "*.inner"))
    assert [row["layer"] for row in context.report["layers"] if row["dropped"]] == ["blocks.1"]


def test_layers_are_ranked_by_what_their_rounding_costs(case):
    model, context = case
    int8_ptq(model, context, sensitivity=True)
    rows = context.report["sensitivity"]
    assert len(rows) >= len(GAINS)
    order = [(-row["accuracy_drop"], row["sqnr_decibels"]) for row in rows]
    assert order == sorted(order)
    assert all(np.isfinite([row["accuracy_drop"], row["sqnr_decibels"]]).all() for row in rows)


class Plus(nn.Module):
    """A block that adds an image to the logits of each class."""

    def __init__(self, added):
        super().__init__()
        self.same, self.unused = nn.Identity(), nn.Linear(1, 1)
        self.register_buffer("added", added)

    def forward(self, x):
        return self.same(x) + self.added


OF_PIXELS = torch.linspace(0, 9, tiny.SIZE)  # the same number for all classes of a pixel
OF_A_CLASS = 0.3 * torch.eye(3)[0].view(1, 3, 1, 1)


class Mended(nn.Module):
    """Blocks behind a model."""

    def __init__(self, model):
        super().__init__()
        self.model, self.blocks = model, nn.ModuleList(map(Plus, (OF_A_CLASS, OF_PIXELS)))

    def forward(self, x):
        x = self.model(x)
        for block in self.blocks:
            x = block(x)
        return x


def test_what_no_class_of_a_pixel_sees_is_what_a_mask_misses_least(tmp_path):
    context = context_of("segmentation", tmp_path)
    torch.manual_seed(0)
    drop_layers(Mended(tiny.dense(outputs=3)).eval(), context, ignore=("model", "model.*"))
    assert [row["layer"] for row in context.report["layers"] if row["dropped"]] == ["blocks.1"]
