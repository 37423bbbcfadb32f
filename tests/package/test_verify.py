"""A bundle is proven without trusting it: every attack is refused before anything runs."""

from __future__ import annotations

import json
import os
import zipfile

import numpy as np
import onnx
import pytest

from kdeploy.errors import ArtifactCorrupt, FileMissing
from kdeploy.package import verify as module
from kdeploy.package.checksums import write_sums
from kdeploy.package.publish import write_zip
from kdeploy.package.verify import verify


@pytest.fixture
def no_process(monkeypatch):
    """Fail the test when anything is executed."""
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: pytest.fail("was executed"))


def rows(result):
    return {one["check"]: one for one in result.checks}


def test_a_bundle_passes_as_folder_and_as_zip(pristine, tmp_path):
    zipped = write_zip(pristine, tmp_path / "bundle.zip")
    for place in (pristine, zipped):
        result = verify(place)
        assert result.passed, result.checks
        assert all(
            set(one) >= {"check", "value", "bound", "passed", "reason"} for one in result.checks
        )
        assert {"contents", "runner", "checksums", "load", "golden.top1"} <= set(rows(result))
    assert result.measured["latency.p50"] > 0
    json.dumps(result.to_dict(), allow_nan=False)


def test_it_leaves_the_bundle_as_it_was(pristine):
    before = {p: p.stat().st_mtime_ns for p in pristine.rglob("*")}
    verify(pristine)
    assert {p: p.stat().st_mtime_ns for p in pristine.rglob("*")} == before


def test_a_budget_that_does_not_hold_is_a_verdict_not_an_error(make_bundle, tmp_path):
    gates = ["peak_memory: <= 1KB", "size: <= 1MB", "accuracy.top1: >= 0.5"]
    result = verify(make_bundle(tmp_path / "bundle.zip", budgets=gates))
    assert not result.passed
    assert [one["check"] for one in result.checks if not one["passed"]] == [gates[0]]
    assert rows(result)[gates[0]]["bound"] == 1000


@pytest.mark.usefixtures("no_process")
def test_a_flipped_byte_in_any_file_is_refused(bundle, each_file, flip_byte):
    flip_byte(bundle / each_file)
    with pytest.raises(ArtifactCorrupt) as error:
        verify(bundle)
    assert error.value.hint
    assert error.value.exit_code == 2


@pytest.mark.usefixtures("no_process")
def test_a_flipped_byte_in_any_file_of_a_zip_is_refused(bundle, each_file, flip_byte, tmp_path):
    flip_byte(bundle / each_file)
    with pytest.raises(ArtifactCorrupt):
        verify(write_zip(bundle, tmp_path / "bundle.zip"))


@pytest.mark.usefixtures("no_process")
def test_a_missing_file_is_refused(bundle, each_file):
    (bundle / each_file).unlink()
    with pytest.raises(ArtifactCorrupt, match=each_file):
        verify(bundle)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    "name", ["manifest.json", "model.onnx", "golden/inputs.npz", "runner/python/run.py"]
)
def test_a_missing_file_is_refused_even_when_the_sums_do_not_list_it(bundle, name):
    (bundle / name).unlink()
    write_sums(bundle)
    with pytest.raises(ArtifactCorrupt, match=name):
        verify(bundle)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("name", ["extra.txt", "runner/python/numpy.py", ".hidden/onnxruntime.py"])
def test_an_unlisted_file_is_refused(bundle, name):
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("print('hello')\n")
    with pytest.raises(ArtifactCorrupt, match=name):
        verify(bundle)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("kind", ["link to the same", "link to a folder", "pipe"])
def test_what_is_no_plain_file_is_refused(bundle, tmp_path, kind):
    name = bundle / "README.md"
    original = name.rename(tmp_path / "README.md")
    if kind == "pipe":
        os.mkfifo(name)
    else:
        name.symlink_to(original if kind == "link to the same" else tmp_path)
    with pytest.raises(ArtifactCorrupt, match="link or a device"):
        verify(bundle)


@pytest.mark.usefixtures("no_process")
def test_what_is_no_bundle_is_refused(tmp_path, tiny):
    with pytest.raises(FileMissing):
        verify(tmp_path / "absent")
    with pytest.raises(ArtifactCorrupt, match="SHA256SUMS is missing"):
        verify(tmp_path)
    with pytest.raises(ArtifactCorrupt, match="neither a folder nor a whole zip"):
        verify(tiny.path)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("part", [0.2, 0.6, 0.95])
def test_a_zip_that_was_cut_off_is_refused(pristine, tmp_path, part):
    whole = write_zip(pristine, tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ArtifactCorrupt):
        verify(tmp_path / "cut.zip")


def test_a_forged_runner_is_not_executed_and_does_not_pass(bundle, tmp_path):
    marker = tmp_path / "executed"
    runner = bundle / "runner/python/run.py"
    runner.write_text(f"open({str(marker)!r}, 'w'); print('{{\"checks\": [], \"passed\": true}}')")
    write_sums(bundle)
    result = verify(bundle)
    assert not marker.exists()
    assert not result.passed
    assert [one["check"] for one in result.checks if not one["passed"]] == ["runner"]
    assert rows(result)["golden.top1"]["passed"]


def test_the_runner_of_an_earlier_kdeploy_is_known_and_not_executed(bundle, monkeypatch):
    (bundle / "runner/python/session.py").write_text("LIBRARIES = ()")
    write_sums(bundle)
    files = {path.name: path.read_bytes() for path in (bundle / "runner/python").iterdir()}
    assert not verify(bundle).passed
    monkeypatch.setattr(module, "EARLIER", frozenset({module._fingerprint(files)}))
    result = verify(bundle)
    assert result.passed
    assert "earlier" in rows(result)["runner"]["reason"]


def change_manifest(bundle, change):
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    write_sums(bundle)


@pytest.mark.usefixtures("no_process")
def test_a_bundle_of_a_later_kdeploy_asks_for_an_update(bundle):
    change_manifest(bundle, lambda m: m.update(schema_version=3, model="something new"))
    with pytest.raises(ArtifactCorrupt, match="schema_version 3") as error:
        verify(bundle)
    assert "--upgrade kdeploy" in error.value.hint


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.pop("lineage"), "lineage"),
        (lambda m: m.update(kind="torch"), "kind"),
        (lambda m: m["model"].update(file="../../etc/passwd"), "model.file"),
        (lambda m: m["model"].update(sha256="0" * 64), "checksum"),
        (lambda m: m["model"].update(opset=17), "opset 18"),
        (lambda m: m["inputs"][0].update(shape=["batch", 1, 9, 9]), "9, 9"),
        (lambda m: m["inputs"][0].update(name="other"), "other"),
        (lambda m: m["outputs"][0].update(values="votes"), "outputs.0.values"),
        (lambda m: m["preprocessing"].update(shape=[1, 8, 9]), "preprocessing"),
        (lambda m: m["preprocessing"].update(std=[0.0]), "preprocessing.std.0"),
        (lambda m: m["preprocessing"].update(mean=[0.0, 1.0]), "mean and std"),
        (lambda m: m["preprocessing"].update(resize="fancy"), "preprocessing.resize"),
        (lambda m: m["classes"].append("fourth"), "not the same names"),
        (lambda m: m["budgets"].append({"gate": "size: <= 1B"}), "budgets.0"),
    ],
)
def test_a_manifest_that_is_not_of_the_schema_or_the_file_is_refused(bundle, change, named):
    change_manifest(bundle, change)
    with pytest.raises(ArtifactCorrupt, match=named):
        verify(bundle)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b'"bundle"', b"[" * 100_000])
def test_a_manifest_that_is_no_json_object_is_refused(bundle, text):
    (bundle / "manifest.json").write_bytes(text)
    write_sums(bundle)
    with pytest.raises(ArtifactCorrupt, match="manifest"):
        verify(bundle)


@pytest.mark.usefixtures("no_process")
def test_a_model_that_reads_outside_its_bundle_is_refused(bundle, tiny, signed_again):
    model = onnx.load(tiny.path)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "../../secret")
    for tensor in model.graph.initializer[:1]:
        tensor.ClearField("raw_data")
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    signed_again(bundle, "golden/tolerance.json", lambda t: None)
    with pytest.raises(ArtifactCorrupt, match="outside its own folder"):
        verify(bundle)


@pytest.mark.usefixtures("no_process")
def test_golden_arrays_that_are_packed_are_refused(bundle):
    np.savez_compressed(bundle / "golden/inputs.npz", inputs=np.zeros((10, 1000, 1000)))
    write_sums(bundle)
    with pytest.raises(ArtifactCorrupt, match="plain array"):
        verify(bundle)


def test_pickled_golden_data_are_not_unpickled(bundle, tmp_path):
    marker = tmp_path / "executed"
    payload = np.array([Forged(marker)], dtype=object)
    np.savez(bundle / "golden/inputs.npz", inputs=payload, allow_pickle=True)
    write_sums(bundle)
    with pytest.raises(ArtifactCorrupt, match="no plain numbers"):
        verify(bundle)
    assert not marker.exists()


class Forged:
    """Unpickling this would leave a file behind."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import time; time.sleep(60)", "without an answer"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("print('no json')", "code 0"),
        ("raise SystemExit('out of memory')", "out of memory"),
    ],
)
def test_a_runner_that_hangs_or_dies_is_a_failed_check(
    pristine, tmp_path, monkeypatch, program, reason
):
    (tmp_path / "run.py").write_text(program)
    monkeypatch.setattr(module, "write_runner", lambda *_: tmp_path / "run.py")
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.0)
    result = verify(pristine, timeout_seconds=30 if "sleep" not in program else 0.5)
    assert not result.passed
    assert reason in rows(result)["self_test"]["reason"]


def test_a_zip_inside_a_folder_of_the_same_name_gets_a_clear_message(pristine, tmp_path):
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
        for file in pristine.rglob("*"):
            archive.write(file, f"bundle/{file.relative_to(pristine).as_posix()}")
    with pytest.raises(ArtifactCorrupt, match="SHA256SUMS is missing"):
        verify(tmp_path / "bundle.zip")
