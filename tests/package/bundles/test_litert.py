"""A bundle of a file for LiteRT."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.errors import KdeployError, ModelError
from kdeploy.export.exporters.litert_from_torch import litert_from_torch
from kdeploy.package.bundles.litert import Litert
from kdeploy.package.verify import verify
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.run import open_runtime

ARE_HERE = all(map(importlib.util.find_spec, ("litert_torch", "ai_edge_litert")))
needs_it = pytest.mark.skipif(not ARE_HERE, reason="pip install 'kdeploy[litert]'")


@needs_it
def test_its_runner_and_verify_prove_it(make_bundle, tiny, run_runner, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    path, example = tmp_path / "m.tflite", torch.from_numpy(tiny.inputs[:2])
    with pytest.raises(ModelError, match="fixed the batch") as caught:
        litert_from_torch(model, example, path)
    assert "max_batch: 1" in caught.value.hint
    litert_from_torch(model, example, path, max_batch=1)
    opened = open_runtime("litert", path, threads=1)
    outputs = np.concatenate([first(opened.infer(x[None])) for x in tiny.inputs])
    bundle = make_bundle(tmp_path / "bundle", file=path, golden=(tiny.inputs, outputs))
    said = json.loads((bundle / "manifest.json").read_text())
    assert (said["model"]["file"], said["model"]["format"]) == ("model.tflite", "litert")
    assert said["outputs"][0]["shape"] == [1, 3]
    assert verify(bundle).passed
    proven = run_runner(bundle, "--self-test")
    assert proven.returncode == 0, proven.stdout + proven.stderr


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "m.tflite").write_bytes(b"\x1c\0\0\0NONE" + bytes(99))
    with pytest.raises(KdeployError) as caught:
        Litert.facts_of(tmp_path / "m.tflite")
    assert caught.value.hint
