"""The small networks of `tests/tiny/architectures.py`, with data of their shape."""

from __future__ import annotations

import runpy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from kdeploy.compress.compressors.int8_ptq import int8_ptq
from kdeploy.compress.contract import CompressContext
from kdeploy.data.contract import Dataset, Preprocessing, Split
from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch

ARCHITECTURES = runpy.run_path(str(Path(__file__).parents[1] / "tiny" / "architectures.py"))


@pytest.fixture
def data():
    """Return a function that makes noise of the shape that a network takes."""
    return noise


@pytest.fixture
def network():
    """Return a function that makes a network by name in eval mode, with its data."""
    return built


@pytest.fixture(scope="session")
def int8():
    """Return a function that makes a network by name on integers, with its data."""

    @cache
    def make(name):
        model, items = built(name)
        return int8_ptq(model, CompressContext(data=items)), items

    return make


@pytest.fixture(scope="session")
def exported(int8, tmp_path_factory):
    """Return a function that writes a network by name on integers, once, and gives the path."""

    @cache
    def write(name, **parameters):
        model, items = int8(name)
        path = tmp_path_factory.mktemp(name) / "m.onnx"
        onnx_from_torch(model, torch.from_numpy(items.validation.x[:2]), path, **parameters)
        return path

    return write


@pytest.fixture(scope="session")
def exported_float(tmp_path_factory):
    """Return the path of a float ONNX file."""
    model, items = built("concatenating")
    path = tmp_path_factory.mktemp("float") / "m.onnx"
    onnx_from_torch(model, torch.from_numpy(items.validation.x[:2]), path)
    return path


def built(name):
    torch.manual_seed(1)
    model = ARCHITECTURES[name]()
    items = noise(ARCHITECTURES["SHAPES"].get(name, (3, 12, 12)))
    with torch.no_grad():
        for _ in range(8):
            model.train()(torch.from_numpy(items.train.x[:16]))
    return model.eval(), items


def noise(shape, count=40):
    rng = np.random.default_rng(0)
    x = rng.normal(0.5, 1, (count, *shape)).astype(np.float32)
    part = Split(x=x, y=np.arange(count, dtype=np.int64) % 5)
    preprocessing = Preprocessing(shape=shape, classes=tuple("abcde"))
    return Dataset(
        name="noise",
        train=part,
        validation=part,
        test=part,
        preprocessing=preprocessing,
        fingerprint="noise-1",
    )
