"""A task of the user's own, made from a shipped one: the whole way to a gate."""

from __future__ import annotations

import numpy as np
import pytest

TASK = """
from kdeploy.tasks.regression import Regression


class Task(Regression):
    def label_loss(self, answer, targets, *, label_smoothing=0.0):
        return 2 * super().label_loss(answer, targets)
"""
BUILD = """
from torch import nn


def net(width=4):
    layers = [nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16 * width, 2))
"""
RECIPE = """
task: my.py:Task
data: {name: arrays, train: train.npz, test: test.npz}
teacher: {build: build.py:net, args: {width: 8}, train: {epochs: 1}}
student: {build: build.py:net}
distill: {epochs: 1, losses: [{mse: {weight: 1.0}}], label_weight: 1.0}
export: [onnx]
bench: {runtimes: [onnxruntime_cpu], minimum_seconds: 0.05, minimum_count: 5}
gates: ["regression.mae: <= 100"]
"""


@pytest.fixture
def recipe(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 80), ("test", 20)):
        x = rng.random((count, 1, 6, 6)).astype(np.float32)
        np.savez(tmp_path / f"{part}.npz", x=x, y=np.stack([x.mean((1, 2, 3))] * 2, axis=1))
    for name, text in {"my.py": TASK, "build.py": BUILD, "recipe.yaml": RECIPE}.items():
        (tmp_path / name).write_text(text)
    return tmp_path / "recipe.yaml"


def test_it_is_trained_and_judged_as_the_task_that_it_is_made_from(kdeploy, recipe, tmp_path):
    answer = kdeploy("run", recipe, "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    assert '"gate": "regression.mae: <= 100"' in answer.out
    assert "regression.r2" in (tmp_path / "out" / "measurements.jsonl").read_text()
