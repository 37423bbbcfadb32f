"""A bundle of a file for ExecuTorch."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.export.exporters.executorch_from_torch import executorch_from_torch
from kdeploy.package.bundles.executorch import Executorch
from kdeploy.package.verify import verify
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.run import open_runtime

IS_HERE = importlib.util.find_spec("executorch") is not None
needs_it = pytest.mark.skipif(not IS_HERE, reason="pip install 'kdeploy[executorch]'")


@needs_it
def test_its_runner_and_verify_prove_it(make_bundle, tiny, run_runner, tmp_path):
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    path = tmp_path / "m.pte"
    executorch_from_torch(nn.Sequential(*layers).eval(), torch.from_numpy(tiny.inputs[:2]), path)
    outputs = first(open_runtime("executorch", path, threads=1).infer(tiny.inputs))
    bundle = make_bundle(tmp_path / "bundle", file=path, golden=(tiny.inputs, outputs))
    said = json.loads((bundle / "manifest.json").read_text())
    assert (said["model"]["file"], said["model"]["format"]) == ("model.pte", "executorch")
    assert said["inputs"][0]["shape"] == ["batch", 1, 8, 8]
    assert said["outputs"][0]["shape"] == ["batch", 3]
    # It imports torch, which takes long on a machine that does other work.
    verdict = verify(bundle, timeout_seconds=600)
    assert verdict.passed, verdict.checks
    proven = run_runner(bundle, "--self-test", "--timeout", "600")
    assert proven.returncode == 0, proven.stdout + proven.stderr


def test_a_file_without_names_is_refused(tmp_path):
    (tmp_path / "m.pte").write_bytes(b"\x1c\0\0\0ET12" + bytes(99))
    with pytest.raises(ModelError, match="does not say what it takes"):
        Executorch.facts_of(tmp_path / "m.pte")
