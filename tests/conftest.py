"""What tests share: a tiny model, tiny data, one thread, fixed seeds, honest skips."""

from __future__ import annotations

import os

# Before the first import of numpy or torch: workers of pytest-xdist share the cores.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import importlib.util
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from kdeploy.data.contract import Dataset, Preprocessing, Split

if os.environ.get("KDEPLOY_HINTS"):
    import tests.hints  # noqa: F401 - notes which hints tests see

pytest_plugins = ("tests.tiny.devices",)
TINY_BUILD = Path(__file__).parent / "tiny" / "build.py"
CLASSES = ("up", "down", "left", "right")
SHAPE = (1, 12, 12)

# Time is no property of the code under test, and a red run must be red again.
settings.register_profile("kdeploy", deadline=None, derandomize=True)
settings.load_profile("kdeploy")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("this machine has no CUDA device that torch sees")
    if item.get_closest_marker("tensorrt") and importlib.util.find_spec("tensorrt") is None:
        pytest.skip("TensorRT is not installed here")


def _has_gpu():
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    np.random.seed(0)  # libraries that draw from the global generator
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _locks_of_its_own(tmp_path_factory):
    """No test waits for the timings of another process: their times mean nothing."""
    os.environ["KDEPLOY_LOCKS"] = str(tmp_path_factory.mktemp("locks"))


@pytest.fixture(scope="session")
def tiny_data():
    """Return four classes of noisy bright edges, (1, 12, 12) uint8, easy to learn."""
    return Dataset(
        name="edges",
        train=_edges(96, seed=1),
        validation=_edges(32, seed=2),
        test=_edges(48, seed=3),
        preprocessing=Preprocessing(
            shape=SHAPE, scale=1 / 255, mean=(0.3,), std=(0.25,), classes=CLASSES
        ),
        fingerprint="edges-1",
    )


def _edges(count, *, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(count, dtype=np.int64) % len(CLASSES)
    x = rng.integers(0, 120, (count, *SHAPE))
    for image, label in zip(x, y, strict=True):
        edge = [np.s_[:, :4], np.s_[:, -4:], np.s_[:, :, :4], np.s_[:, :, -4:]][label]
        image[edge] += 130
    return Split(x=x.astype(np.uint8), y=y)


@pytest.fixture
def tiny_build(tmp_path):
    """Return the path of a build.py of one's own, with a function `net`."""
    return shutil.copy(TINY_BUILD, tmp_path / "build.py")


@pytest.fixture(scope="session")
def tiny_model():
    """Return a function that makes the tiny network: seeded, in eval mode, statistics filled."""
    import torch

    from kdeploy.store.references import ModelReference, build_model

    def make(*, seed=0, **args):
        torch.manual_seed(seed)
        model = build_model(ModelReference(build=f"{TINY_BUILD}:net", args=args))
        with torch.no_grad():
            model.train()(torch.rand(32, args.get("channels", 1), *SHAPE[1:]))
        return model.eval()

    return make


@pytest.fixture
def store_model(tmp_path, tiny_data):
    """Return a function that writes a tiny network as an artefact's folder."""
    from kdeploy.store.artifact import artifact_id, write_manifest
    from kdeploy.store.model_io import save_model
    from kdeploy.store.references import ModelReference

    def store(model, *, name="model", **args):
        folder = tmp_path / name
        folder.mkdir()
        entry = save_model(folder, model, ModelReference(build=f"{TINY_BUILD}:net", args=args))
        data = {"name": "edges", "preprocessing": tiny_data.preprocessing.to_dict()}
        identity = artifact_id({"name": name})
        manifest = {"id": identity, "kind": "torch", "label": name, "model": entry, "data": data}
        write_manifest(folder, manifest)
        return folder

    return store
