"""The bundle of a dynamic model: its runner decides as ONNX Runtime here does, and proves it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from kdeploy.errors import ArtifactCorrupt
from kdeploy.package.bundles.dynamic import Dynamic
from kdeploy.package.checksums import write_sums
from kdeploy.package.run import golden_of, package
from kdeploy.package.verify import verify
from kdeploy.preprocessing import Preprocessing
from kdeploy.runtimes.dynamic_session import clear_rows
from kdeploy.runtimes.run import open_runtime
from tests.package.runner.cpp import built
from tests.tiny.dynamic import FEATURES, weights, write_cascade

CLASSES = ("red", "green", "blue")
FORM = Preprocessing(shape=(FEATURES,), mean=(0.0,), std=(1.0,), scale=1.0, classes=CLASSES)


@pytest.fixture(scope="module")
def items():
    return np.random.default_rng(0).normal(size=(150, FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory, items):
    folder = tmp_path_factory.mktemp("dynamic")
    path = folder / "m.dynamic"
    write_cascade(path)
    step = {"id": "b" * 12, "label": "cascade", "stage": "dynamic", "technique": "cascade"}
    manifest = {
        **step,
        "parameters": {},
        "facts": {"parameters": 36},
        "data": {"preprocessing": FORM.to_dict()},
        "lineage": [step],
    }
    golden = golden_of(path, items[clear_rows(path, items, 8)])
    out = folder / "bundle"
    return package(path, out, manifest=manifest, golden=golden, accuracy={}, budgets=[])


@pytest.fixture
def bundle(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "bundle")


def run(bundle, *words):
    command = [sys.executable, str(bundle / "runner/python/run.py"), *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


needs_compiler = pytest.mark.skipif(bool(built.missing()), reason=built.missing())


def run_cpp(bundle, *words):
    command = [built.program(), "--bundle", bundle, "--threads", "1", "--json", *words]
    environment = {**os.environ, **built.ENVIRONMENT}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert "Sanitizer" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def change(bundle, name, **values):
    told = json.loads((bundle / name).read_text())
    told.update(values)
    (bundle / name).write_text(json.dumps(told))
    (bundle / "SHA256SUMS").unlink()
    write_sums(bundle)


def test_is_verified_on_items_of_both_parts(pristine):
    verdict = verify(pristine)
    assert verdict.passed, verdict.checks
    reason = next(c["reason"] for c in verdict.checks if c["check"] == "golden.parts")
    assert reason == "items answered as recorded: 4 by part 0, 4 by part 1"


def test_the_runner_answers_as_the_runtime_here(pristine, items, tmp_path):
    np.save(tmp_path / "items.npy", items)
    code, told = run(pristine, str(tmp_path / "items.npy"))
    here = open_runtime("onnxruntime_cpu", pristine / "model.dynamic", threads=1)
    logits = here.infer(items)["logits"]
    assert code == 0
    assert [one["index"] for one in told["predictions"]] == logits.argmax(1).tolist()
    assert told["early_share"] == pytest.approx(here.is_early.mean())


@needs_compiler
def test_the_runner_in_cpp_decides_as_that_in_python(pristine, items, tmp_path):
    np.save(tmp_path / "items.npy", items)
    code, told = run_cpp(pristine, str(tmp_path / "items.npy"))
    _, expected = run(pristine, str(tmp_path / "items.npy"))
    assert code == 0
    found, wanted = told["predictions"], expected["predictions"]
    assert [one["index"] for one in found] == [one["index"] for one in wanted]
    scores = [[one["score"] for one in side] for side in (found, wanted)]
    np.testing.assert_allclose(*scores, rtol=1e-5)
    assert told["early_share"] == expected["early_share"]
    np.save(tmp_path / "zeros.npy", np.zeros_like(items))
    warned = [one(pristine, str(tmp_path / "zeros.npy"))[1]["warning"] for one in (run, run_cpp)]
    assert warned[0] == warned[1]


@needs_compiler
def test_the_runner_in_cpp_proves_what_that_in_python_proves(pristine):
    code, told = run_cpp(pristine, "--self-test", "--seconds", "0")
    _, expected = run(pristine, "--self-test", "--threads", "1")
    assert code == 0, told
    assert [c["check"] for c in told["checks"]] == [c["check"] for c in expected["checks"]]
    reasons = [
        next(c["reason"] for c in side["checks"] if c["check"] == "golden.parts")
        for side in (told, expected)
    ]
    assert reasons[0] == reasons[1]


def refused_by_cpp(bundle):
    code, told = run_cpp(bundle, "--self-test", "--seconds", "0")
    assert code == 1
    return "; ".join(c["reason"] for c in told["checks"] if not c["passed"])


def test_the_code_of_a_bundle_decides_as_the_session(pristine, items):
    path = pristine / "model.dynamic"
    opened = Dynamic.open_model(str(path), 1)
    here = open_runtime("onnxruntime_cpu", path, threads=1)
    for item in items[:30]:
        found = opened({"x": item[None]})["logits"]
        np.testing.assert_array_equal(found, here.infer(item[None])["logits"])
        assert (opened.part == 0) == here.is_early[0]


def test_other_items_than_at_calibration_are_told(pristine, items, tmp_path):
    np.save(tmp_path / "items.npy", np.zeros_like(items))
    _, told = run(pristine, str(tmp_path / "items.npy"))
    assert "0.0% of 150 items were answered early, at calibration it was 50.0%" in told["warning"]


def test_another_threshold_is_found_by_the_golden_items(bundle):
    told = json.loads((bundle / "manifest.json").read_text())
    dynamic = told["dynamic"]
    dynamic["parts"][0]["threshold"] = 0.999
    change(bundle, "manifest.json", dynamic=dynamic)
    change(bundle, "model.dynamic", parts=dynamic["parts"])
    manifest = json.loads((bundle / "manifest.json").read_text())
    content = (bundle / "model.dynamic").read_bytes()
    sizes = [f.stat().st_size for f in bundle.glob("model.*")]
    model = {
        **manifest["model"],
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": sum(sizes),
    }
    recorded = {**manifest["recorded"], "size": float(sum(sizes))}
    change(bundle, "manifest.json", model=model, recorded=recorded)
    verdict = verify(bundle)
    failed = {c["check"] for c in verdict.checks if not c["passed"]}
    assert "golden.parts" in failed
    if not built.missing():
        assert "recorded is" in refused_by_cpp(bundle)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda d: d["golden"].pop(), "does not name a part for each golden item"),
        (lambda d: d["parts"][0].update(threshold=None), "last part of a dynamic model"),
        (lambda d: d["parts"][0].update(threshold=1.5), "from 0 to 1"),
        (lambda d: d["parts"][1].pop("threshold"), "threshold is absent"),
        (lambda d: d["parts"][1].update(sha256="0" * 64), "another checksum"),
        (lambda d: d["calibration"].update(risk=0.5), "do not say the same"),
        (lambda d: d.update(score="entropy"), "largest_probability"),
    ],
)
def test_a_manifest_that_contradicts_the_parts_is_refused(bundle, edit, reason):
    told = json.loads((bundle / "manifest.json").read_text())["dynamic"]
    edit(told)
    change(bundle, "manifest.json", dynamic=told)
    with pytest.raises(ArtifactCorrupt, match=reason):
        verify(bundle)
    if not built.missing():
        assert refused_by_cpp(bundle)


def test_a_part_that_is_not_the_recorded_one_is_refused(bundle):
    part = bundle / "model.part-1.onnx"
    weight = weights(2).tobytes()
    part.write_bytes(part.read_bytes().replace(weight, weight[::-1]))
    (bundle / "SHA256SUMS").unlink()
    write_sums(bundle)
    with pytest.raises(ArtifactCorrupt, match="part-1"):
        verify(bundle)
