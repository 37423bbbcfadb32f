import shutil

import numpy as np
import pytest
import yaml

from kdeploy.pipeline.run import run
from kdeploy.recipe.read import load
from tests.conftest import TINY_BUILD


@pytest.fixture
def project(tmp_path, tiny_data):
    """Return a folder with a recipe that runs the whole way in seconds."""
    return _written(tmp_path, tiny_data)


@pytest.fixture(scope="module")
def written_project(tmp_path_factory, tiny_data):
    """Return such a folder that the tests of a module share."""
    return _written(tmp_path_factory.mktemp("project"), tiny_data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_data):
    """Return the result of a run the whole way, into `run` of its project; only to be read."""
    project = _written(tmp_path_factory.mktemp("finished"), tiny_data)
    return run(load(project / "recipe.yaml"), project / "run")


@pytest.fixture
def finished_project(project, finished):
    """Return a project of one's own in which the recipe has already been run."""
    shutil.copytree(finished.out, project / "run")
    return project


def _written(folder, tiny_data):
    shutil.copy(TINY_BUILD, folder / "build.py")
    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(folder / f"{name}.npz", x=part.x, y=part.y)
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
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture
def run_project(project):
    """Return a function that runs the project's recipe, with overrides."""

    def go(*overrides, out="run", **options):
        return run(load(project / "recipe.yaml", overrides), project / out, **options)

    return go
