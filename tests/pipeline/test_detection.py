"""A detector goes the whole way: data, training, distillation, what is stored, and its metric."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from kdeploy.data.contract import TaskReference
from kdeploy.data.load import DataReference, load
from kdeploy.distill.contract import Batch
from kdeploy.errors import KdeployError
from kdeploy.package.folding import Folding
from kdeploy.package.verify import verify
from kdeploy.pipeline.log import NullListener
from kdeploy.pipeline.run import run
from kdeploy.pipeline.single import Source, package_one
from kdeploy.recipe.read import load as load_recipe
from kdeploy.store.model_io import load_model
from kdeploy.training.batches import TrainingBatches
from kdeploy.training.predict import metrics_on

BUILD = """
import torch
from torch import nn


class Detector(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
            # Else a cell sees 7 pixels, less than a square.
            nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(),
        )
        self.boxes, self.scores = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 2, 1)
        nn.init.constant_(self.scores.bias, -3.0)

    def forward(self, x):
        x = self.body(x)
        distances = nn.functional.softplus(self.boxes(x)) * 4
        return {"boxes": [distances], "scores": [self.scores(x)]}


def detector(*, width=8):
    return Detector(width)
"""
DATA = """
import numpy as np


def squares():
    random = np.random.default_rng(0)
    made = {"classes": ["dark", "bright"]}
    for part, count in (("train", 96), ("test", 16)):
        x = random.integers(90, 110, (count, 1, 24, 32)).astype(np.uint8)
        y = np.full((count, 2, 5), -1, np.float32)
        for item in range(count):
            for place in range(random.integers(1, 3)):
                side, label = int(random.integers(6, 10)), int(random.integers(2))
                left = 16 * place + int(random.integers(0, 16 - side))
                top = int(random.integers(0, 24 - side))
                x[item, 0, top : top + side, left : left + side] = 230 if label else 10
                y[item, place] = left, top, left + side, top + side, label
        made |= {f"x_{part}": x, f"y_{part}": y}
    return made
"""
RECIPE = """
name: squares
task: detection
data: {name: "data.py:squares", augment: [horizontal_flip]}
teacher:
  build: build.py:detector
  args: {width: 12}
  train: {epochs: 60, optimizer: adamw, learning_rate: 0.004, batch_size: 8}
student: {build: build.py:detector, args: {width: 6}}
distill:
  epochs: 3
  optimizer: adamw
  learning_rate: 0.02
  batch_size: 8
  losses: [{detection_kd: {}}, {pkd: {}}]
"""


@pytest.fixture
def folder(tmp_path):
    for name, text in (("build.py", BUILD), ("data.py", DATA), ("recipe.yaml", RECIPE)):
        (tmp_path / name).write_text(text)
    return tmp_path


def data_of(folder, **given):
    reference = DataReference(
        name="data.py:squares", folder=folder, task=TaskReference(name="detection"), **given
    )
    return load(reference)


def test_a_detector_is_trained_taught_and_judged(folder):
    out = folder / "run"
    run(load_recipe(folder / "recipe.yaml"), out, until="distill")
    stages = json.loads((out / "summary.json").read_text())["stages"]
    assert [one["stage"] for one in stages] == ["teacher", "distill", "distill"]  # and the control
    data = data_of(folder)
    model = load_model(out / "artifacts" / stages[0]["artifact"])
    found = metrics_on(model, data.test, data.preprocessing, data.task)
    assert list(found) == ["detection.map", "detection.map50"]
    assert found["detection.map50"] > 0.05


WHOLE = """
compress: [{int8_ptq: {profile: cpu}}]
export: [{onnx: {profile: cpu}}]
bench: {runtimes: [onnxruntime_cpu], batch_sizes: [1], threads: [1], minimum_seconds: 0.1}
gates: ["detection.map: -20pp"]
package: {}
"""


def test_a_detector_becomes_a_bundle_that_prints_boxes(folder):
    recipe = RECIPE.split("student:")[0] + WHOLE
    (folder / "recipe.yaml").write_text(recipe)
    out = folder / "run"
    run(load_recipe(folder / "recipe.yaml"), out)
    summary = json.loads((out / "summary.json").read_text())
    gates = {gate["gate"]: gate["passed"] for gate in summary["gates"]}
    assert gates["detection.map: -20pp"]
    assert all(gates.values())
    rows = [json.loads(line) for line in (out / "measurements.jsonl").read_text().splitlines()]
    measured = [r["value"] for r in rows if r["metric"] == "detection.map" and r["runtime"]]
    assert measured
    assert max(measured) > 0.05
    bundle = out / "bundle"
    report = verify(bundle).to_dict()
    checks = {check["check"]: check["passed"] for check in report["checks"]}
    assert checks["golden.decoded"]
    data = data_of(folder)
    np.save(folder / "items.npy", data.test.x[:4])
    program = [sys.executable, str(bundle / "runner/python/run.py"), "--json"]
    done = subprocess.run(
        [*program, str(folder / "items.npy")], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)["predictions"]
    assert len(told) == 4
    boxes = told[0]["decoded"]["boxes"]
    _check_folded(out / "artifacts" / summary["packaged"], folder, data, boxes)
    best = boxes[0]
    assert best["class"] in ("dark", "bright")
    x1, y1, x2, y2 = best["box"]
    assert 0 <= x1 < x2 <= 32
    assert 0 <= y1 < y2 <= 24


def _check_folded(model, folder, data, boxes):
    """Check that a bundle of pixels finds the boxes of the one before, with its own suppression."""
    bundle = folder / "folded"
    result = package_one(
        Source(reference=str(model)),
        [],
        bundle,
        NullListener(),
        folding=Folding(suppresses=True),
    )
    assert result.passed, result.checks
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert [port["shape"][1:] for port in manifest["outputs"]] == [[48, 4], [48, 2]]
    pixels = folder / "pixels.npy"
    np.save(pixels, np.asarray(data.test.x[:1]).transpose(0, 2, 3, 1))
    program = [sys.executable, str(bundle / "runner/python/run.py"), "--json", str(pixels)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    [found] = [one["decoded"]["boxes"] for one in json.loads(done.stdout)["predictions"]]
    assert [box["class"] for box in found] == [box["class"] for box in boxes]
    for one, other in zip(found, boxes, strict=True):
        np.testing.assert_allclose(one["box"], other["box"], atol=0.01)


def test_flips_move_the_boxes(folder):
    data = data_of(folder, augment=("horizontal_flip",))
    torch.manual_seed(0)
    batches = TrainingBatches(
        data, batch_size=16, device=torch.device("cpu"), channels_last=False, views=2
    )
    assert batches.views == 0
    for batch in batches.epoch([0, 0]):
        check_boxes(batch, data)


def check_boxes(batch: Batch, data):
    known = data.preprocessing
    pixels = (batch.x * known.std[0] + known.mean[0]) / known.scale
    for image, boxes in zip(pixels[:, 0], batch.labels, strict=True):
        for x1, y1, x2, y2, label in boxes[boxes[:, 4] >= 0].int().tolist():
            inside = image[y1:y2, x1:x2]
            assert torch.allclose(inside, torch.full_like(inside, 230 if label else 10), atol=1)


def test_what_cannot_move_boxes_is_refused_before_any_work(folder):
    with pytest.raises(KdeployError, match="`rand_augment` does not move boxes") as caught:
        data_of(folder, augment=("rand_augment",))
    assert "horizontal_flip" in caught.value.hint


def test_boxes_decide_the_fingerprint(folder):
    before = data_of(folder).fingerprint
    (folder / "data.py").write_text(DATA.replace("left, top, left", "left + 0.25, top, left"))
    after = data_of(folder, seed=1).fingerprint
    assert before != after
    assert np.isfinite(data_of(folder, seed=1).train.y).all()
