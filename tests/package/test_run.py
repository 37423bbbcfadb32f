"""Packaging: what a bundle holds, that it is the same every time, and that it is all or nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile

import numpy as np
import onnx
import pytest

from kdeploy.data.contract import Preprocessing
from kdeploy.errors import FileMissing, InputError, ModelError
from kdeploy.machine import fingerprint
from kdeploy.package.kinds import runner_files
from kdeploy.package.verify import verify


def read(path):
    return json.loads(path.read_text())


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def test_a_bundle_holds_what_the_contract_names(pristine, tiny):
    manifest = read(pristine / "manifest.json")
    assert manifest["schema_version"] == 1
    assert manifest["inputs"] == [
        {"name": "image", "shape": ["batch", 1, 8, 8], "type": "float32", "values": ""}
    ]
    assert manifest["outputs"][0]["shape"] == ["batch", 3]
    assert manifest["classes"] == ["circle", "square", "triangle"]
    assert manifest["preprocessing"] == {"layout": "NCHW", **tiny.preprocessing.to_dict()}
    assert manifest["accuracy"] == {"accuracy.top1": 0.9}
    assert manifest["model"]["opset"] == 18
    assert manifest["model"]["profile"] == "cpu"
    assert [one["label"] for one in manifest["lineage"]] == ["teacher", "tiny"]
    assert [one["part"] for one in manifest["licences"]] == ["data", "runner"]
    assert (pristine / "model.onnx").read_bytes() == tiny.path.read_bytes()
    runner = runner_files("onnx")
    assert {name: (pristine / name).read_bytes() for name in runner} == runner
    assert {"runner/cpp/CMakeLists.txt", "runner/cpp/main.cpp"} <= set(runner)
    np.testing.assert_array_equal(np.load(pristine / "golden/inputs.npz")["inputs"], tiny.inputs)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="coreutils are not installed")
def test_sha256sum_checks_every_other_file(pristine, each_file):
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"],
        cwd=pristine,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert each_file == "SHA256SUMS" or f"{each_file}: OK" in done.stdout


def test_the_same_input_gives_the_same_bytes(make_bundle, pristine, tmp_path):
    one = make_bundle(tmp_path / "one.zip")
    other = make_bundle(tmp_path / "deeper" / "other.zip")
    assert one.read_bytes() == other.read_bytes()
    with zipfile.ZipFile(one) as archive:
        assert archive.namelist() == sorted(archive.namelist())
        assert {e.date_time for e in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        archive.extractall(tmp_path / "unpacked")
    assert contents(tmp_path / "unpacked") == contents(pristine)


def test_an_existing_bundle_is_replaced(make_bundle, tmp_path):
    for name in ("bundle", "bundle.zip"):
        make_bundle(tmp_path / name, accuracy={"accuracy.top1": 0.5})
        make_bundle(tmp_path / name, accuracy={"accuracy.top1": 0.75})
    manifest = read(tmp_path / "bundle/manifest.json")
    assert manifest["accuracy"] == {"accuracy.top1": 0.75}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "bundle.zip"]


def test_budgets_are_recorded_as_bounds_and_not_judged(make_bundle, tmp_path):
    bundle = make_bundle(
        tmp_path / "bundle",
        budgets=["peak_memory: <= 1KB", "accuracy.top1: -5pp"],
        accuracy={"accuracy.top1": 0.9, "baseline": {"accuracy.top1": 0.97}, "n": 450},
    )
    first, second = read(bundle / "manifest.json")["budgets"]
    assert first["bound"] == 1000
    assert first["judged"] == "device"
    assert second["bound"] == pytest.approx(0.92)
    assert (second["is_upper"], second["judged"]) == (False, "recorded")


def test_the_measuring_machine_is_described_where_it_is_this_one(
    make_bundle, artifact_manifest, tmp_path
):
    here = fingerprint()
    manifest = {**artifact_manifest(), "machine": here.id}
    bundle = make_bundle(tmp_path / "bundle", manifest=manifest)
    assert read(bundle / "manifest.json")["machine"]["cpu"] == here.cpu
    assert here.cpu in (bundle / "README.md").read_text()


def test_outputs_that_are_probabilities_are_said_to_be(
    make_bundle, onnx_model, run_onnx, tiny, tmp_path
):
    file = tmp_path / "softmax.onnx"
    onnx.save(onnx_model(softmax=True), file)
    golden = (tiny.inputs, run_onnx(file, tiny.inputs))
    bundle = make_bundle(tmp_path / "bundle", file=file, golden=golden)
    assert read(bundle / "manifest.json")["outputs"][0]["values"] == "probabilities"


def test_a_signal_of_one_axis_is_packaged_and_passes(
    make_bundle, artifact_manifest, onnx_model, run_onnx, tmp_path
):
    file = tmp_path / "signal.onnx"
    onnx.save(onnx_model(shape=(2, 30), batch=1), file)
    form = Preprocessing(shape=(2, 30), mean=(0.0, 1.0), std=(1.0, 2.0), classes=("a", "b", "c"))
    inputs = np.random.default_rng(0).standard_normal((4, 2, 30)).astype(np.float32)
    golden = (inputs, run_onnx(file, inputs))
    manifest = artifact_manifest(form)
    bundle = make_bundle(tmp_path / "bundle", file=file, manifest=manifest, golden=golden)
    assert read(bundle / "manifest.json")["preprocessing"]["layout"] == "NCL"
    assert verify(bundle).passed


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("absent.onnx", "there is no ONNX file"),
        ("text.onnx", "not an ONNX file"),
        ("two_inputs.onnx", "the file has `image`, `more`"),
        ("batch_of_three.onnx", "dynamic batch, or 1"),
        ("four_classes.onnx", "classes"),
        ("other_shape.onnx", "shape"),
    ],
)
def test_a_file_that_a_runner_cannot_run_is_refused(
    make_bundle, onnx_model, run_onnx, tiny, tmp_path, file, named
):
    (tmp_path / "text.onnx").write_text("no model")
    two = onnx_model()
    two.graph.input.append(onnx.helper.make_tensor_value_info("more", 1, [1]))
    onnx.save(two, tmp_path / "two_inputs.onnx")
    onnx.save(onnx_model(batch=3), tmp_path / "batch_of_three.onnx")
    onnx.save(onnx_model(classes=4), tmp_path / "four_classes.onnx")
    onnx.save(onnx_model(shape=(3, 8, 8)), tmp_path / "other_shape.onnx")
    before = sorted(tmp_path.iterdir())
    with pytest.raises((ModelError, FileMissing), match=named) as error:
        make_bundle(tmp_path / "bundle", file=tmp_path / file)
    assert error.value.hint
    assert sorted(tmp_path.iterdir()) == before


def test_classes_that_do_not_fit_the_outputs_are_refused(make_bundle, artifact_manifest, tmp_path):
    manifest = artifact_manifest()
    manifest["data"]["preprocessing"]["classes"] = ["only", "two"]
    with pytest.raises(ModelError, match="2 classes"):
        make_bundle(tmp_path / "bundle", manifest=manifest)
    assert list(tmp_path.iterdir()) == []


def test_a_preprocessing_that_the_runner_does_not_know_is_refused(
    make_bundle, artifact_manifest, tmp_path
):
    manifest = artifact_manifest()
    manifest["data"]["preprocessing"]["crop"] = "centre"
    with pytest.raises(ModelError, match="crop"):
        make_bundle(tmp_path / "bundle", manifest=manifest)
    assert list(tmp_path.iterdir()) == []


def test_a_budget_that_no_device_can_judge_leaves_nothing(make_bundle, tmp_path):
    with pytest.raises(InputError, match="energy"):
        make_bundle(tmp_path / "bundle", budgets=["energy: <= 1"])
    assert list(tmp_path.iterdir()) == []
