"""`kdeploy dynamic`: ONNX files from elsewhere as a cascade that can be measured and packaged."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdeploy.package.verify import verify
from tests.tiny.dynamic import FEATURES, weights, write_linear


@pytest.fixture
def files(tmp_path):
    x = np.random.default_rng(0).normal(size=(1200, 1, FEATURES)).astype(np.float32)
    y = (x[:, 0] @ weights(2)).argmax(1)
    for name, rows in (("train", slice(0, 1000)), ("test", slice(1000, 1200))):
        np.savez(tmp_path / f"{name}.npz", x=x[rows], y=y[rows])
    small = write_linear(tmp_path / "small.onnx", weights(2) + 0.3 * weights(3), is_signal=True)
    return small, write_linear(tmp_path / "large.onnx", weights(2), is_signal=True)


def test_makes_a_cascade_of_files_that_is_packaged_and_proven(files, tmp_path, kdeploy):
    data = f"arrays:train={tmp_path}/train.npz,test={tmp_path}/test.npz,normalize=false"
    words = ["--risk", "5pp", "--data", data, "--out", str(tmp_path / "out"), "--json"]
    made = kdeploy("dynamic", "cascade", *map(str, files), *words)
    assert made.code == 0, made.err
    told = json.loads(made.out)
    assert [part["label"] for part in told["facts"]["dynamic"]["parts"]] == ["small", "large"]
    artifact = str(tmp_path / "out" / "artifacts" / told["id"])
    packed = kdeploy("package", artifact, "--out", str(tmp_path / "bundle"), "--json")
    assert packed.code == 0, packed.err
    assert verify(tmp_path / "bundle").passed


def test_a_file_that_is_not_there_is_told(kdeploy, files, tmp_path):
    missing = kdeploy("dynamic", "cascade", str(tmp_path / "none.onnx"), str(files[1]))
    assert missing.code == 2
    assert "none.onnx" in missing.err
