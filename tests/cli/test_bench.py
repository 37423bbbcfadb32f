import json


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
