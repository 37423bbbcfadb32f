"""Bundles on an emulated 64-bit ARM: right answers and bounded memory, and nothing of speed.

`make test-arm` fetches what is needed and names its folder in KDEPLOY_ARM.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdeploy.compress.compressors.int8_ptq import int8_ptq
from kdeploy.compress.contract import CompressContext
from kdeploy.export.run import export
from kdeploy.machine import fingerprint
from kdeploy.package.checksums import write_sums
from kdeploy.package.run import package
from kdeploy.package.runner.python.golden import ERRORS
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.run import open_runtime
from kdeploy.store.artifact import file_sha256
from tests.arm import emulated
from tests.package.conftest import _artifact_manifest
from tests.tiny import build

ARM = os.environ.get("KDEPLOY_ARM", "")
pytestmark = [
    pytest.mark.skipif(not ARM, reason="needs an emulated ARM: make test-arm"),
    pytest.mark.timeout(1800),
]
CONVERTS = all(map(importlib.util.find_spec, ("litert_torch", "ai_edge_litert")))
LITERT = pytest.mark.skipif(not CONVERTS, reason="pip install 'kdeploy[litert]'")
PATIENCE = ("--timeout", "600")  # an emulator is slow, and a busy machine slower
RUNNER = "runner/python/run.py"
MOST_BYTES = 400e6  # the emulator, which keeps what it translates, and all that runs in it
KINDS = [
    ("onnx", "float"),
    ("onnx", "INT8"),
    pytest.param("litert", "float", marks=LITERT),
    pytest.param("litert", "INT8", marks=LITERT),
]


@pytest.fixture(scope="module")
def bundles(tiny_data, tmp_path_factory):
    """Return a function that makes the bundle of a format and a precision, once."""
    folder, made = tmp_path_factory.mktemp("arm"), {}
    model = build.net(width=8).eval()
    models = {
        "float": model,
        "INT8": int8_ptq(model, CompressContext(data=tiny_data), profile="arm"),
    }

    def bundle(form, precision):
        if (form, precision) not in made:
            path = folder / f"{precision}.{'onnx' if form == 'onnx' else 'tflite'}"
            fixed = {"max_batch": 1} if form == "litert" else {"profile": "arm"}
            export(models[precision], form, fixed, tiny_data, path)
            made[form, precision] = _packaged(path, form, tiny_data, folder / f"{form}-{precision}")
        return made[form, precision]

    return bundle


def _packaged(path, form, data, out):
    inputs = data.preprocessing.apply(data.test.x[:6])
    runtime = {"onnx": "onnxruntime_cpu"}.get(form, form)
    opened = open_runtime(runtime, path, threads=1)
    outputs = np.concatenate([first(opened.infer(x[None])) for x in inputs])
    manifest = _artifact_manifest(data.preprocessing)
    return package(path, out, manifest=manifest, golden=(inputs, outputs), accuracy={}, budgets=())


def _run(bundle, *arguments):
    command = [emulated.python_of(Path(ARM)), "-B", bundle / RUNNER, *arguments]
    return subprocess.run(
        [str(part) for part in (*command, "--threads", "1", *PATIENCE)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("form", "precision"), KINDS)
def test_a_bundle_passes_its_self_test_there(bundles, form, precision):
    done = _run(bundles(form, precision), "--self-test", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    checks = {check["check"]: check for check in report["checks"]}
    assert {"checksums", "load", "golden.top1"} <= set(checks)
    assert set(checks) & set(ERRORS)
    assert 0 < report["measured"]["peak_memory"] < MOST_BYTES


def test_integers_say_there_what_they_say_here(bundles, tiny_data, tmp_path):
    np.save(tmp_path / "items.npy", tiny_data.test.x[:4])
    bundle = bundles("onnx", "INT8")
    there = _run(bundle, "--json", tmp_path / "items.npy")
    assert there.returncode == 0, there.stderr
    here = json.loads(
        subprocess.run(
            [sys.executable, "-B", bundle / RUNNER, "--json", tmp_path / "items.npy"],
            capture_output=True,
            check=True,
        ).stdout
    )
    told = json.loads(there.stdout)["predictions"]
    assert [p["index"] for p in told] == [p["index"] for p in here["predictions"]]
    scores = [[p["score"] for p in found] for found in (told, here["predictions"])]
    np.testing.assert_allclose(*scores, atol=0.05)


def test_a_wrong_answer_is_found_there(bundles, tmp_path):
    """The weights of another network, signed again: only running it can tell."""
    import onnx
    from onnx import numpy_helper

    bundle = shutil.copytree(bundles("onnx", "float"), tmp_path / "bundle")
    model = onnx.load(bundle / "model.onnx")
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim > 1:
            tensor.CopyFrom(numpy_helper.from_array(-array, tensor.name))
    onnx.save(model, bundle / "model.onnx")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["model"]["sha256"] = file_sha256(bundle / "model.onnx")
    manifest["model"]["size"] = (bundle / "model.onnx").stat().st_size
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    write_sums(bundle)
    done = _run(bundle, "--self-test", "--json")
    failed = [c["check"] for c in json.loads(done.stdout)["checks"] if not c["passed"]]
    assert done.returncode == 1
    assert set(failed) & set(ERRORS)


def test_it_is_told_as_emulated(tmp_path):
    source = "from kdeploy.machine import fingerprint; print(fingerprint().emulated_on)"
    root = Path(emulated.__file__).parents[2]
    python = str(emulated.python_of(Path(ARM)))
    told = subprocess.run([python, "-c", f"import sys; sys.path.append({str(root)!r}); {source}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert told.stdout.strip() == "x86"
    assert fingerprint().emulated_on is None
