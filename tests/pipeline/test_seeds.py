"""One student a seed: the teacher and the split are the same, the numbers side by side."""

from __future__ import annotations

import json
from statistics import fmean, stdev

import pytest

from kdeploy.pipeline.seeds import spread
from kdeploy.preprocessing import Preprocessing
from kdeploy.store.model_io import load_model
from kdeploy.training.fit import accuracy


def test_the_deviation_is_that_of_a_sample_and_one_value_has_none():
    found = spread([0.5, 0.75, 0.625])
    assert found["mean"] == pytest.approx(0.625)
    assert found["std"] == pytest.approx(0.125)
    assert spread([0.5]) == {"accuracy": [0.5], "mean": 0.5, "n": 1}


def test_each_seed_has_its_student_and_baseline_and_one_teacher(run_project, project, tiny_data):
    result = run_project("seeds=[0, 4]", "distill.baseline=true", until="distill")
    summary = json.loads((project / "run" / "summary.json").read_text())
    assert [m.label for m in result.students] == ["student", "student-seed4"]
    assert [m.label for m in result.baselines] == ["baseline", "baseline-seed4"]
    assert [m.manifest["seed"] for m in result.students] == [0, 4]
    assert len({m.id for m in [*result.students, *result.baselines]}) == 4
    assert {m.manifest["parents"][0] for m in result.students} == {result.teacher.id}
    found = summary["seeds"]["student"]
    known = result.teacher.manifest["data"]["preprocessing"]
    test, preprocessing = tiny_data.test, Preprocessing.from_dict(known)
    expected = [accuracy(load_model(m), test, preprocessing) for m in result.students]
    assert found["accuracy"] == expected
    assert (found["n"], found["mean"], found["std"]) == (2, fmean(expected), stdev(expected))
    assert summary["seeds"]["baseline"]["n"] == 2
    assert summary["student"] == result.students[0].id

    again = run_project("seeds=[0, 4]", "distill.baseline=true", until="distill")
    assert all(stage["cached"] for stage in again.summary["stages"])
    assert again.summary["seeds"] == summary["seeds"]


def test_one_seed_of_a_list_is_the_student_of_that_seed_alone(run_project):
    alone = run_project(until="distill")
    listed = run_project("seeds=[0]", until="distill")
    assert listed.student.id == alone.student.id
    assert "seeds" not in alone.summary
    assert "std" not in listed.summary["seeds"]["student"]
