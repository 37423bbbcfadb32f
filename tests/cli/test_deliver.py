import json

import numpy as np
import pytest
import yaml

from kdeploy.measurement import read
from kdeploy.store.model_io import load_model


@pytest.fixture
def project(tmp_path, tiny_build, tiny_data):
    """Return a folder with a recipe for a teacher that is quickly trained."""
    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(tmp_path / f"{name}.npz", x=part.x, y=part.y)
    recipe = {
        "data": {"name": "arrays", "train": "train.npz", "test": "test.npz"},
        "teacher": {"build": "build.py:net", "train": {"epochs": 1, "batch_size": 32}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


@pytest.fixture
def teacher(project, kdeploy):
    """Return the folder of a trained artefact."""
    answer = kdeploy(
        "run", project / "recipe.yaml", "--until", "teacher", "--json", "--out", project / "t"
    )
    assert answer.code == 0, answer.err
    return project / "t" / "artifacts" / json.loads(answer.out)["teacher"]


def test_verbs_chain_from_artefact_to_verified_bundle(kdeploy, teacher, project):
    pruned = kdeploy(
        "compress", "prune_channels", teacher, "--ratio", 0.25, "--recover", "{epochs: 1}",
        "--out", project / "p", "--json",
    )  # fmt: skip
    assert pruned.code == 0, pruned.err
    manifest = json.loads(pruned.out)
    small = project / "p" / "artifacts" / manifest["id"]
    assert [s["label"] for s in manifest["lineage"]] == ["teacher", "prune_channels"]

    assert "prune_channels" in kdeploy("show", small).out
    int8 = kdeploy(
        "compress", "int8_ptq", small, "--calibration-batches", 2, "--out", project / "q", "--json"
    )
    assert int8.code == 0, int8.err
    quantized = project / "q" / "artifacts" / json.loads(int8.out)["id"]

    exported = [
        json.loads(kdeploy("export", "onnx", artifact, "--out", project / out, "--json").out)
        for artifact, out in ((teacher, "x"), (quantized, "x"))
    ]
    assert [(project / "x" / "exports" / f"{n}.onnx").is_file() for n in ("teacher", "int8_ptq")]

    files = [project / "x" / "artifacts" / e["id"] for e in exported]
    flags = [
        "--runtime",
        "onnxruntime_cpu",
        "--threads",
        1,
        "--seconds",
        0.05,
        "--out",
        project / "b",
    ]
    bench = kdeploy(
        "bench", files[1], "--baseline", files[0], "--gate", "size: 1.01x", *flags, "--json"
    )
    assert bench.code == 0, bench.err
    found = json.loads(bench.out)
    assert {c["label"] for c in found["comparisons"]} == {"int8_ptq"}
    assert {"ratio", "low", "high", "verdict"} <= set(found["comparisons"][0])
    assert len(read(project / "b")) == len(found["measurements"])

    failed = kdeploy("bench", files[1], "--gate", "size: <= 1B", *flags)
    assert failed.code == 1
    assert "FAIL" in failed.out

    assert "kdeploy bench" in (project / "b" / "report.html").read_text()
    report = kdeploy("report", project / "b", "--format", "markdown")
    assert "int8_ptq" in report.out
    assert kdeploy("report", project / "b", "--out", project / "r.html").code == 0

    bundle = project / "bundle.zip"
    packaged = kdeploy("package", files[1], "--budget", "peak_memory: <= 1GB", "--out", bundle)
    assert packaged.code == 0, packaged.err
    assert kdeploy("verify", bundle).code == 0
    unfit = kdeploy("package", files[1], "--budget", "size: <= 1B", "--out", project / "no.zip")
    assert unfit.code == 1
    assert not (project / "no.zip").exists()


def test_a_changed_byte_in_a_bundle_is_refused(kdeploy, teacher, project):
    bundle = project / "bundle"
    assert kdeploy("package", teacher, "--out", bundle).code == 0
    model = bundle / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    answer = kdeploy("verify", bundle)
    assert answer.code == 2
    assert "model.onnx" in answer.err
    assert "hint:" in answer.err


def test_distils_from_model_references(kdeploy, teacher, project):
    answer = kdeploy(
        "distill", "--teacher", teacher, "--student", f"{project}/build.py:net",
        "--student-args", "{width: 4}", "--data", "arrays",
        "--set", f"data.train={project}/train.npz", "--set", f"data.test={project}/test.npz",
        "--loss", "{kd: {temperature: 2.0}}", "--epochs", 1, "--out", project / "d", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["student"]


def test_distils_by_a_scheme_with_parameters(kdeploy, teacher, project):
    peer = f"{{build: {project}/build.py:net, args: {{width: 3}}}}"
    answer = kdeploy(
        "distill", "--teacher", teacher, "--student", f"{project}/build.py:net", "--data", "arrays",
        "--set", f"data.train={project}/train.npz", "--set", f"data.test={project}/test.npz",
        "--scheme", f"{{mutual: {{peers: [{peer}]}}}}", "--epochs", 1, "--out", project / "m",
        "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["stages"][-1]["technique"] == "mutual"


def test_a_reference_without_weights_is_refused_with_nothing_written(kdeploy, project):
    answer = kdeploy(
        "export", "onnx", f"{project}/build.py:net", "--data", "digits", "--out", project / "x"
    )
    assert answer.code == 2
    assert "--weights" in answer.err
    assert not (project / "x").exists()


def test_benches_a_torch_artefact_where_only_files_run_by_exporting_it(kdeploy, teacher, project):
    flags = ["--runtime", "onnxruntime_cpu", "--threads", 1, "--seconds", 0.05]
    answer = kdeploy("bench", teacher, *flags, "--out", project / "b", "--json")
    assert answer.code == 0, answer.err
    found = {r["metric"]: r["value"] for r in json.loads(answer.out)["measurements"]}
    assert found["latency.p50"] > 0
    assert found["accuracy.top1"] is not None


def test_a_runtime_that_cannot_run_is_a_row_with_its_reason(kdeploy, teacher, project):
    flags = ["--runtime", "tensorrt", "--runtime", "fake", "--seconds", 0.05]
    answer = kdeploy("bench", teacher, *flags, "--out", project / "b", "--json")
    assert answer.code == 0, answer.err
    rows = [r for r in json.loads(answer.out)["measurements"] if r["runtime"] == "tensorrt"]
    assert len(rows) == 1
    assert rows[0]["value"] is None
    assert rows[0]["skipped"]


def test_a_function_that_loads_its_weights_needs_no_file(kdeploy, tmp_path):
    (tmp_path / "build.py").write_text(
        "import torch\n"
        "def net():\n"
        "    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(10))\n"
        "    model(torch.zeros(1, 1, 16, 16))\n"
        "    torch.nn.init.constant_(model[1].weight, 0.25)\n"
        "    return model\n"
    )
    answer = kdeploy(
        "compress", "unstructured", f"{tmp_path}/build.py:net", "--as-built", "--data", "digits",
        "--no-spare", "--sparsity", 0.5, "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    manifest = json.loads(answer.out)
    weight = load_model(tmp_path / "out" / "artifacts" / manifest["id"])[1].weight
    assert set(weight.unique().tolist()) == {0.0, 0.25}
    assert manifest["facts"]["sparsity"] == pytest.approx(0.5)
    assert manifest["facts"]["size"] == 4 * (2560 + 10)


def test_a_host_that_is_no_name_is_told_before_anything_runs(kdeploy, tmp_path):
    (tmp_path / "m.onnx").touch()
    answer = kdeploy("bench", tmp_path / "m.onnx", "--host", "-oX=y", "--out", tmp_path / "out")
    assert answer.code == 2
    assert "names no machine" in answer.err
    assert not (tmp_path / "out").exists()


def test_a_bench_that_measured_nothing_ends_with_3_and_the_reasons(kdeploy, teacher, project):
    flags = ["--runtime", "tensorrt", "--seconds", 0.05, "--out", project / "n", "--json"]
    answer = kdeploy("bench", teacher, *flags)
    assert answer.code == 3
    assert "nothing was measured" in answer.err
    assert "on tensorrt: " in answer.err
    assert "hint: " in answer.err
    assert json.loads(answer.out)["measurements"][0]["value"] is None
