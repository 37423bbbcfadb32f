import csv
import json

import numpy as np
import pytest
import torch

from kdeploy.errors import ArtifactCorrupt, InputError, ModelError, OrderError, UnknownName
from kdeploy.measurement import read
from kdeploy.package.checksums import write_sums
from kdeploy.package.verify import verify
from kdeploy.store.artifact import open_artifact, write_manifest
from kdeploy.store.model_io import load_model


def test_goes_the_whole_way_from_teacher_to_verified_bundle(finished):
    out = finished.out
    summary = json.loads((out / "summary.json").read_text())
    stages = [s["stage"] for s in summary["stages"]]
    assert stages == [
        "teacher", "distill", "distill", "compress", "compress",
        "export", "export", "export", "export", "bench", "package",
    ]  # fmt: skip
    for name in ("recipe.yaml", "machine.json", "log.jsonl", "report.md", "report.html"):
        assert (out / name).stat().st_size > 0
    for label in ("teacher", "student", "prune_channels", "int8_ptq"):
        assert (out / "exports" / f"{label}.onnx").is_file()
    assert finished.passed
    assert not any(s["cached"] for s in summary["stages"])
    assert all(g["passed"] for g in summary["gates"])
    assert summary["packaged"] in {s["artifact"] for s in summary["stages"]}
    assert verify(out / "bundle").passed
    bundled = json.loads((out / "bundle" / "manifest.json").read_text())
    assert bundled["name"] == "edges"
    assert 0 < bundled["accuracy"]["latency.p50"] < 1
    assert bundled["accuracy"]["latency measured in"].startswith("onnxruntime_cpu, batch 1, thread")
    assert 0 <= bundled["accuracy"]["baseline"]["accuracy.top1"] <= 1
    page = (out / "bundle" / "README.md").read_text()
    assert page.startswith("# edges\n")
    assert "| latency.p50 |" in page
    with (out / "measurements.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(read(out))


def test_measures_every_file_in_the_same_runtime_as_the_teacher(finished):
    records = read(finished.out)
    for model in finished.models:
        for metric in ("latency.p50", "accuracy.top1", "size", "parameters", "peak_memory"):
            found = [
                r
                for r in records
                if r.artifact == model.id and r.metric == metric and r.runtime == "onnxruntime_cpu"
            ]
            assert found, f"{model.label} has no {metric}"
            assert found[0].value is not None
    quantized = [r for r in records if r.metric == "integer_kernels"]
    assert {r.label for r in quantized} == {"int8_ptq"}
    assert quantized[0].value == 1.0


def test_a_second_run_makes_nothing_and_says_so(finished, finished_project, run_project):
    again = run_project()
    assert all(s["cached"] for s in again.summary["stages"])
    ids = [[s["artifact"] for s in r.summary["stages"]] for r in (finished, again)]
    assert ids[0] == ids[1]
    fresh = run_project("bench.minimum_count=25")
    made = {s["stage"] for s in fresh.summary["stages"] if not s["cached"]}
    assert made - {"package"} == {"bench"}  # another file may win, and is then packaged


def stored_bundle(project):
    folder = next(project.glob("run/artifacts/*/bundle"))
    return folder, folder.parent / "manifest.json"


def test_a_stored_bundle_with_one_changed_digit_is_not_delivered(finished_project, run_project):
    inner = stored_bundle(finished_project)[0] / "manifest.json"
    inner.write_text(inner.read_text().replace('"created": "2', '"created": "1'))
    with pytest.raises(ArtifactCorrupt, match=r"bundle/manifest\.json does not hold"):
        run_project()


def test_a_stored_bundle_is_verified_again_whatever_the_store_says(finished_project, run_project):
    bundle, outer = stored_bundle(finished_project)
    outputs = np.load(bundle / "golden" / "outputs.npz")["outputs"]
    np.savez(bundle / "golden" / "outputs.npz", outputs=outputs + 100)
    write_sums(bundle)
    entry = json.loads(outer.read_text())
    assert entry["facts"]["passed"]
    write_manifest(outer.parent, entry)  # the store finds nothing wrong with it
    again = run_project()
    assert not again.passed
    failed = [v.gate for v in again.verdicts if not v.passed]
    assert "bundle: golden.max_abs" in failed


def test_a_stored_model_comes_back_bit_for_bit(finished):
    import torch

    x = torch.rand(5, 1, 12, 12)
    for model in finished.models:
        first, second = load_model(model), load_model(model.folder)
        assert torch.equal(first(x), second(x))
        assert model.manifest["lineage"][-1]["id"] == model.id
    pruned = next(m for m in finished.models if m.label == "prune_channels")
    assert pruned.facts["parameters"] < finished.student.facts["parameters"]
    assert [step["label"] for step in pruned.manifest["lineage"]] == [
        "teacher", "student", "prune_channels",
    ]  # fmt: skip


def test_stops_after_the_stage_asked_for(run_project, project):
    result = run_project(until="distill")
    assert {s["stage"] for s in result.summary["stages"]} == {"teacher", "distill"}
    assert not (project / "run" / "exports").exists()


def test_compresses_the_teacher_itself_without_a_student(run_project):
    result = run_project("student=null", "distill=null", "package=null", until="compress")
    assert [m.label for m in result.models] == ["teacher", "prune_channels", "int8_ptq"]


def test_trains_the_student_without_a_teacher_beside_when_asked(run_project):
    result = run_project("distill.baseline=true", "compress=[]", until="bench")
    assert result.baseline.label == "baseline"
    assert "baseline" in {r.label for r in result.records}


def test_a_failed_gate_packages_nothing(run_project, project):
    result = run_project('gates=["size: <= 1B"]', "compress=[]")
    assert not result.passed
    assert result.packaged is None
    assert not (project / "run" / "bundle").exists()
    assert "no file passes" in result.summary["chosen_because"]


def test_a_run_packages_what_its_bundle_shall_bring_and_finds_it_again(run_project, project):
    emit = "package.emit=[systemd, {c_header: {alignment: 32}}]"
    first = run_project(emit, "compress=[]")
    assert first.packaged is not None, first.failures
    assert "alignas(32)" in next((project / "run/bundle/deploy/c_header").glob("*.c")).read_text()
    again = run_project(emit, "compress=[]")
    assert [s["cached"] for s in again.summary["stages"] if s["stage"] == "package"] == [True]
    other = run_project("package.emit=[systemd]", "compress=[]")
    assert [s["cached"] for s in other.summary["stages"] if s["stage"] == "package"] == [False]
    assert not (project / "run/bundle/deploy/c_header").exists()


def test_takes_an_artefact_as_teacher(run_project, project):
    first = run_project(until="teacher")
    teacher = {"build": str(first.teacher.folder)}
    second = run_project(f"teacher={json.dumps(teacher)}", out="other", until="distill")
    assert second.teacher.id == first.teacher.id
    assert open_artifact(project / "other" / "artifacts" / first.teacher.id)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("student.args.classes=5", ModelError, "5 classes.*has 4"),
        ("student.args.widht=3", UnknownName, "widht"),
        ("student.build=build.py:nett", UnknownName, "net"),
        ('distill.losses=[{"attention": {"layers": {"blocks.0": "blocks.7"}}}]', UnknownName, "7"),
        ("compress=[{int8_ptq: {}}, {prune_channels: {ratio: 0.5}}]", OrderError, "after"),
        ("data.train=nothing.npz", InputError, "nothing.npz"),
        ("teacher.args.channels=3", ModelError, "teacher"),
    ],
)
def test_refuses_bad_input_before_writing_anything(run_project, project, override, error, message):
    with pytest.raises(error, match=message) as caught:
        run_project(override)
    assert caught.value.hint
    assert not (project / "run").exists()


def test_refuses_weights_that_do_not_fit(run_project, project):
    first = run_project(until="teacher")
    weights = first.teacher.folder / "model.safetensors"
    with pytest.raises(ModelError, match="do not fit") as caught:
        run_project(f"teacher.weights={weights}", "teacher.args.width=6", out="other")
    assert "args" in caught.value.hint
    assert not (project / "other").exists()
    pickled = project / "weights.pt"
    torch.save({}, pickled)
    with pytest.raises(ModelError, match="and no tensors by name"):
        run_project(f"teacher.weights={pickled}", out="other")
    assert not (project / "other").exists()


def test_writes_events_for_tensorboard_when_asked(run_project, project):
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    run_project(until="teacher", tensorboard=True)
    events = list((project / "run" / "tensorboard").glob("events*"))
    assert len(events) == 1
    assert b"train_the_teacher/loss" in events[0].read_bytes()


def test_what_is_to_know_of_the_data_is_told_and_kept(project, run_project):
    for part in ("train", "test"):
        known = dict(np.load(project / f"{part}.npz"))
        np.savez(project / f"{part}.npz", x=known["x"], y=known["y"].astype(np.float32), mask=[1])
    result = run_project("compress=[]", until="bench")
    told = [n for n in result.teacher.facts["report"]["data"] if n.startswith("train.npz: ")]
    assert "of `mask` nothing is read" in told[0]
    assert "float32 labels are whole numbers" in told[1]
    events = [json.loads(line) for line in (result.out / "log.jsonl").read_text().splitlines()]
    assert {f"{project}/{note}" for note in told} <= {e.get("text") for e in events}
    assert "of `mask` nothing is read" in (result.out / "report.html").read_text()
