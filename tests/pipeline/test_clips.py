"""Clips (N, channels, frames, height, width) go the whole way: trained, pruned, INT8, packaged."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import yaml

from kdeploy.measurement import read
from kdeploy.package.verify import verify
from kdeploy.pipeline.run import run
from kdeploy.recipe.read import load
from kdeploy.store.model_io import load_model

BUILD = """
from torch import nn

def net(*, width=16):
    return nn.Sequential(
        nn.Conv3d(1, width, 3, padding=1), nn.BatchNorm3d(width), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(width, width, 3, padding=1, groups=width), nn.ReLU(), nn.AvgPool3d(2),
        nn.Conv3d(width, 2 * width, 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        nn.Linear(2 * width, 2),
    )
"""
RECIPE = {
    "name": "clips",
    "data": {"name": "arrays", "train": "train.npz", "test": "test.npz", "augment": ["mixup"]},
    "teacher": {"build": "build.py:net", "train": {"epochs": 1, "batch_size": 16}},
    "student": {"build": "build.py:net", "args": {"width": 8}},
    "distill": {
        "epochs": 1,
        "batch_size": 16,
        "losses": [{"kd": {}}, {"hints": {"layers": {"4": "4"}}}],
    },
    "compress": [{"prune_channels": {"ratio": 0.5, "round_to": 4}}, {"int8_ptq": {}}],
    "bench": {"runtimes": ["onnxruntime_cpu"], "threads": [1], "minimum_seconds": 0.05},
    "package": {},
}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    random = np.random.default_rng(0)
    for part, count in (("train", 96), ("test", 16)):
        y = np.arange(count) % 2
        x = random.integers(0, 60, (count, 1, 4, 8, 8), dtype=np.uint8)
        x[y == 1] += 120
        np.savez(folder / f"{part}.npz", x=x, y=y)
    (folder / "build.py").write_text(BUILD)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    run(load(folder / "recipe.yaml"), folder / "o")
    return folder / "o"


def test_all_convolutions_of_the_int8_file_are_integer_and_it_is_measured(out):
    [kernels] = [r for r in read(out) if r.metric == "integer_kernels"]
    assert kernels.value == 1.0
    nodes = onnx.load(out / "exports" / "int8_ptq.onnx").graph.node
    makers = {name: node.op_type for node in nodes for name in node.output}
    read_codes = [n.op_type for n in nodes if makers.get(n.input[0]) == "DequantizeLinear"]
    # Pools read codes too: nothing between the first and the last layer is float.
    assert [read_codes.count(kind) for kind in ("Conv", "MaxPool", "AveragePool")] == [3, 1, 1]


def test_convolutions_of_clips_are_pruned(out):
    stages = json.loads((out / "summary.json").read_text())["stages"]
    [pruned] = [s["artifact"] for s in stages if s["technique"] == "prune_channels"]
    model = load_model(out / "artifacts" / pruned)
    assert (model[0].out_channels, model[4].groups, model[7].in_channels) == (4, 4, 4)


def test_a_bundle_of_clips_says_its_layout_and_verifies(out):
    manifest = json.loads((out / "bundle" / "manifest.json").read_text())
    assert manifest["preprocessing"]["layout"] == "NCTHW"
    assert manifest["preprocessing"]["shape"] == [1, 4, 8, 8]
    assert verify(out / "bundle").passed
