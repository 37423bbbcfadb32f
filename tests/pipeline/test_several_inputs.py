"""Models of several inputs the whole way: from a teacher to a verified bundle on integers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from kdeploy.measurement import read
from kdeploy.package.manifest import read_manifest
from kdeploy.pipeline.run import RunResult, run
from kdeploy.recipe.read import load
from kdeploy.store.model_io import load_model
from tests.tiny.two_inputs import masked_items, pictured_items

BUILD = str(Path(__file__).parents[1] / "tiny" / "two_inputs.py")
QUICK = {"epochs": 1, "batch_size": 64, "learning_rate": 0.02}
NAMES = {"pictured": ["image", "vector"], "masked": ["input_ids", "attention_mask"]}
ITEMS = {"pictured": pictured_items, "masked": masked_items}


@dataclass(frozen=True)
class Done:
    name: str
    folder: Path
    result: RunResult


def recipe(folder, name):
    for part, count in (("train", 256), ("test", 96)):
        np.savez(folder / f"{part}.npz", **ITEMS[name](count, seed=count))
    built = f"{BUILD}:{name}"
    return {
        "name": name,
        "data": {"name": "arrays", "train": "train.npz", "test": "test.npz"},
        "teacher": {
            "build": built,
            "args": {"width": 16},
            "train": {**QUICK, "epochs": 8},
        },
        "student": {"build": built},
        "distill": {**QUICK, "epochs": 6, "losses": [{"kd": {}}]},
        "compress": [
            {"prune_channels": {"ratio": 0.25, "round_to": 1, "recover": QUICK}},
            {"int8_ptq": {"calibration_batches": 2}},
        ],
        "export": [{"onnx": {}}],
        "bench": {
            "runtimes": ["onnxruntime_cpu"],
            "batch_sizes": [1],
            "minimum_seconds": 0.02,
            "minimum_count": 10,
        },
        "gates": ["accuracy.top1: >= 0.5"],
        "package": {},
    }


@pytest.fixture(scope="module", params=["pictured", "masked"])
def done(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(recipe(folder, request.param)))
    return Done(request.param, folder, run(load(file), folder / "run"))


def test_the_last_model_is_on_integers_and_passes_the_gate(done):
    assert all(gate["passed"] for gate in done.result.summary["gates"])
    records = read(done.folder / "run" / "measurements.jsonl")
    kernels = [r.value for r in records if r.metric == "integer_kernels" and r.value is not None]
    assert kernels
    assert min(kernels) == 1


def test_a_file_takes_the_inputs_by_the_names_of_forward(done):
    import onnxruntime

    file = next((done.folder / "run" / "exports").glob("int8*.onnx"))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == NAMES[done.name]
    if done.name == "masked":
        assert {i.type for i in session.get_inputs()} == {"tensor(int64)"}


def test_the_bundle_tells_how_each_input_is_made(done):
    bundle = done.folder / "run" / "bundle"
    manifest = read_manifest(bundle)
    assert [port.name for port in manifest.inputs] == NAMES[done.name]
    assert all(port.preprocessing is not None for port in manifest.inputs)
    assert len(manifest.classes) == (3 if done.name == "pictured" else 2)
    text = (bundle / "README.md").read_text()
    assert all(f"`{name}`" in text for name in NAMES[done.name])


def test_the_runner_prepares_stored_items_and_answers_as_was_measured(done):
    runner = done.folder / "run" / "bundle" / "runner" / "python" / "run.py"
    test = ITEMS[done.name](96, seed=96)
    command = [sys.executable, str(runner), "--json", str(done.folder / "test.npz")]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [one["index"] for one in json.loads(told.stdout)["predictions"]]
    measured = read_manifest(done.folder / "run" / "bundle").accuracy["accuracy.top1"]
    assert float(np.mean(found == test["y"])) == pytest.approx(measured, abs=1e-9)


def test_the_runner_refuses_an_input_that_is_missing_or_of_another_shape(done):
    runner = done.folder / "run" / "bundle" / "runner" / "python" / "run.py"
    first, second = NAMES[done.name]
    items = ITEMS[done.name](3)
    for bad in ({first: items[first]}, {first: items[first], second: items[second][:, :2]}):
        np.savez(done.folder / "bad.npz", **bad)
        command = [sys.executable, str(runner), str(done.folder / "bad.npz")]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        assert told.returncode == 2
        assert f"`{second}`" in told.stderr
        assert "hint:" in told.stderr


def test_what_is_stored_takes_its_inputs_by_name(done):
    items = ITEMS[done.name](5)
    given = {name: torch.from_numpy(items[name]) for name in NAMES[done.name]}
    for made in done.result.models:
        assert load_model(made.folder)(**given).shape[0] == 5
