import numpy as np
import pytest
import yaml

from kdeploy.pipeline.run import run
from kdeploy.recipe.read import load


@pytest.fixture
def project(tmp_path, tiny_build, tiny_data):
    """Return a folder with a recipe that runs the whole way in seconds."""
    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(tmp_path / f"{name}.npz", x=part.x, y=part.y)
    recipe = {
        "name": "edges",
        "data": {
            "name": "arrays",
            "train": "train.npz",
            "test": "test.npz",
            "validation_fraction": 0.25,
        },
        "teacher": {
            "build": "build.py:net",
            "args": {"width": 8},
            "train": {"epochs": 2, "batch_size": 16},
        },
        "student": {"build": "build.py:net", "args": {"width": 6}},
        "distill": {"epochs": 2, "batch_size": 16},
        "compress": [
            {"prune_channels": {"ratio": 0.3, "recover": {"epochs": 1, "batch_size": 16}}},
            {"int8_ptq": {"calibration_batches": 2, "batch_size": 16}},
        ],
        "bench": {
            "runtimes": ["onnxruntime_cpu"],
            "threads": [1],
            "minimum_seconds": 0.05,
            "minimum_count": 20,
        },
        "gates": ["accuracy.top1: -100pp", "size: <= 1MB"],
        "package": {"budgets": ["peak_memory: <= 512MB"]},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


@pytest.fixture
def run_project(project):
    """Return a function that runs the project's recipe, with overrides."""

    def go(*overrides, out="run", **options):
        return run(load(project / "recipe.yaml", overrides), project / out, **options)

    return go
