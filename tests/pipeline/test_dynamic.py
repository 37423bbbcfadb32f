"""A recipe with `dynamic:` ends in a model of several files, measured and packaged as one."""

from __future__ import annotations

import json

import pytest

from kdeploy.bench.plan import BenchPlan
from kdeploy.dynamic.calibration import Promise
from kdeploy.errors import ModelError, RecipeError, UnknownName
from kdeploy.measurement import read, select
from kdeploy.package.verify import verify
from kdeploy.pipeline.dynamic import dynamic_of_files
from kdeploy.pipeline.log import NullListener
from kdeploy.pipeline.run import run
from kdeploy.pipeline.side_by_side import bench_side_by_side
from kdeploy.recipe.read import load

# Of 24 validation items 20 choose the threshold: they prove little, and that little is enough here.
WANTED = "dynamic={cascade: [student, teacher], risk: 30pp, confidence: 0.6}"
SHORT = ("compress=[]", "gates=[]", "teacher.train.epochs=8", "distill.epochs=8", WANTED)


@pytest.fixture(scope="module")
def ran(written_project):
    return run(load(written_project / "recipe.yaml", overrides=SHORT), written_project / "run")


def test_it_is_packaged_and_proven(ran):
    assert ran.packaged.model.kind == "dynamic"
    assert ran.summary["packaged"] == ran.packaged.model.id
    assert verify(ran.out / "bundle").passed
    told = json.loads((ran.out / "bundle" / "manifest.json").read_text())["dynamic"]
    assert [part["label"] for part in told["parts"]] == ["student", "teacher"]
    assert told["calibration"]["risk"] == 0.3


def test_it_is_measured_in_turns_with_the_others_and_marked(ran):
    rows = [r for r in read(ran.out) if r.label == "cascade" and r.runtime]
    assert {r.metric for r in rows} >= {
        "latency.mean",
        "latency.p50",
        "latency.p99",
        "early_share",
        "accuracy.top1",
        "agreement.top1",
        "size",
    }
    assert all("dynamic" in r.flags for r in rows)
    assert not any("dynamic" in r.flags for r in read(ran.out) if r.label != "cascade")
    (share,) = select(rows, "early_share")
    assert share.n == 48
    assert share.low <= share.value <= share.high
    compared = json.loads((ran.out / "comparisons.json").read_text())
    own = [line for line in compared if line["label"] == "cascade"]
    assert {line["metric"] for line in own} == {"latency.mean", "latency.p50", "throughput"}
    assert all(line["flags"] == ["dynamic"] for line in own)
    report = (ran.out / "report.md").read_text()
    assert "answered early" in report
    assert "cascade (dynamic, packaged)" in report


def test_its_files_lie_in_exports_and_can_be_measured_again(ran, tmp_path):
    file = ran.out / "exports" / "cascade.dynamic"
    assert {f.name for f in file.parent.glob("cascade.*")} == {
        "cascade.dynamic",
        "cascade.part-0.onnx",
        "cascade.part-1.onnx",
    }
    plan = BenchPlan(minimum_seconds=0.05, minimum_count=20, threads=[1])
    told = bench_side_by_side(
        [str(file)],
        plan,
        tmp_path / "without",
        baseline=None,
        gates=[],
        data=None,
        listener=NullListener(),
    )
    (row,) = told.records
    assert "noise says nothing of real items" in row.skipped


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ("dynamic.cascade=[studnet, teacher]", UnknownName, "studnet"),
        ("dynamic.risk=1pp", ModelError, "and there are 24"),
        ("export=[{openvino: {}}]", RecipeError, "its parts are ONNX files"),
    ],
)
def test_what_cannot_be_is_told_before_any_work(run_project, project, changed, kind, said):
    with pytest.raises(kind, match=said):
        run_project(*SHORT, changed)
    assert not (project / "run" / "artifacts").exists()


def test_a_gate_on_early_answers_needs_a_dynamic_model(run_project):
    with pytest.raises(RecipeError, match="the recipe has no `dynamic`"):
        run_project('gates=["early_share: >= 50%"]')


EXITS = "distill.scheme={self_exits: {exits: [blocks.0]}}"
OF_EXITS = "dynamic={exits: [blocks.0], risk: 30pp, confidence: 0.6}"


def test_exits_of_one_network_are_packaged_and_proven(run_project, project):
    made = run_project(*SHORT[:-1], EXITS, OF_EXITS)
    assert made.packaged.model.kind == "dynamic"
    assert made.packaged.model.label == "exits"
    told = json.loads((project / "run" / "bundle" / "manifest.json").read_text())["dynamic"]
    assert [part["label"] for part in told["parts"]] == ["blocks.0", "student"]
    assert told["parts"][1]["takes"], "the second part goes on from the first"
    assert verify(project / "run" / "bundle").passed
    rows = [r for r in read(project / "run") if r.label == "exits" and r.runtime]
    assert {"latency.mean", "latency.p99", "early_share", "accuracy.top1"} <= {
        r.metric for r in rows
    }
    again = dynamic_of_files(
        [str(made.student.folder)],
        "exits",
        {"layers": ("blocks.0",)},
        Promise(risk=0.3, confidence=0.6),
        project / "again",
        None,
        NullListener(),
    )
    parts = again.file.facts["dynamic"]["parts"]
    assert [part["label"] for part in parts] == ["blocks.0", "student"]
    student = next(
        r for r in read(project / "run") if (r.label, r.metric) == ("student", "parameters")
    )
    own = next(r for r in rows if r.metric == "parameters")
    assert student.value < own.value


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ((OF_EXITS,), RecipeError, "the student has no exits"),
        ((EXITS, OF_EXITS.replace("[blocks.0]", "[blocks.1]")), UnknownName, "blocks.1"),
        (
            (EXITS, "compress=[int8_ptq]", "dynamic={exits: {model: int8_ptq}, risk: 30pp}"),
            RecipeError,
            "`int8_ptq` is INT8",
        ),
    ],
)
def test_exits_that_nothing_trains_are_told_before_any_work(
    run_project, project, changed, kind, said
):
    with pytest.raises(kind, match=said):
        run_project(*SHORT[:1], *SHORT[2:-1], *changed)
    assert not (project / "run" / "artifacts").exists()
