"""Files are chosen on the validation part; the test part judges the one that was chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdeploy.data.load import load
from kdeploy.gate import parse_gates
from kdeploy.measurement import Measurement, read
from kdeploy.pipeline.choose import Evidence, choose
from kdeploy.pipeline.exported import Exported
from kdeploy.recipe.read import load as load_recipe
from kdeploy.store.artifact import Artifact
from kdeploy.store.model_io import load_model
from kdeploy.training.fit import accuracy

CELL = {"runtime": "onnxruntime_cpu", "batch_size": 1}
GATES = parse_gates(["accuracy.top1: -1.0pp"])


def exported(name):
    manifest = {"label": name, "kind": "onnx", "stage": "export", "technique": "onnx"}
    manifest["parameters"] = {}
    artifact = Artifact(id=name, folder=Path(name), manifest={**manifest, "facts": {"size": 100}})
    return Exported(model=artifact, file=artifact)


def records(metric, **values):
    return [
        Measurement(artifact=name, label=name, metric=metric, value=value, runtime=CELL["runtime"])
        for name, value in values.items()
    ]


def chosen(test, validation, *, is_teacher_ahead=False):
    latency = [
        Measurement(artifact=name, label=name, metric="latency.p50", value=seconds, **CELL)
        for name, seconds in {"teacher": 9e-3, "slow": 2e-3, "fast": 1e-3}.items()
    ]
    evidence = Evidence(
        test=[*latency, *records("accuracy.top1", **test)],
        validation=records("accuracy.top1", **validation),
        teacher="teacher",
        is_teacher_ahead=is_teacher_ahead,
    )
    return choose([exported("slow"), exported("fast")], evidence, GATES, configuration=CELL)


def test_the_choice_looks_at_validation_and_the_verdict_at_test():
    found = chosen(
        {"teacher": 0.90, "slow": 0.895, "fast": 0.899},
        {"teacher": 0.90, "slow": 0.90, "fast": 0.80},
    )
    assert found.exported.name == "slow"
    assert [v.value for v in found.verdicts] == [0.895]
    assert "failed a gate: fast" in found.reason


def of_two_formats(*, seconds, runtimes, accuracy=0.9):
    """Return what is chosen of an ONNX file of 2 ms, and one of another runtime's own format."""
    onnx, own = exported("teacher"), exported("own")
    onnx.file.manifest["kind"], own.file.manifest["kind"] = "onnx", "ort_format"
    places = {"teacher": CELL, "own": {**CELL, "runtime": "ort_format"}}
    times = {"teacher": 2e-3, "own": seconds}
    measured = [
        Measurement(artifact=name, label=name, metric=metric, value=value, **places[name])
        for metric, values in (("latency.p50", times), ("accuracy.top1", {"own": accuracy}))
        for name, value in {"teacher": 0.9, **values}.items()
    ]
    evidence = Evidence(test=measured, validation=[], teacher="teacher", runtimes=runtimes)
    gates = [*GATES, *parse_gates(["latency.p50: 1.5x"])]
    return choose([own], evidence, gates, configuration=CELL)


def test_a_file_is_judged_in_the_runtime_that_opens_it_against_the_teacher_in_its_own():
    found = of_two_formats(seconds=1e-3, runtimes=["onnxruntime_cpu", "ort_format"])
    assert found.exported.name == "own"
    assert [v.passed for v in found.verdicts] == [True, True]
    assert "fastest on ort_format beside files on onnxruntime_cpu" in found.reason
    lost = of_two_formats(seconds=1.9e-3, runtimes=["onnxruntime_cpu", "ort_format"])
    assert [v.passed for v in lost.verdicts] == [True, False]


def test_a_file_that_no_runtime_of_the_recipe_opens_has_no_measurement_and_misses():
    found = of_two_formats(seconds=1e-3, runtimes=["onnxruntime_cpu"])
    assert found.exported is None
    assert not any(v.passed for v in found.verdicts)


def test_no_other_file_is_tried_where_the_chosen_one_fails_on_test():
    found = chosen(
        {"teacher": 0.90, "slow": 0.90, "fast": 0.80},
        {"teacher": 0.90, "slow": 0.90, "fast": 0.90},
    )
    assert found.exported is None
    assert [v.value for v in found.verdicts] == [0.80]
    assert "fast was chosen and fails 1 of 1 on the test part" in found.reason


def test_of_files_that_all_miss_on_validation_the_last_is_judged():
    found = chosen(
        {"teacher": 0.90, "slow": 0.90, "fast": 0.90},
        {"teacher": 0.90, "slow": 0.80, "fast": 0.80},
    )
    assert found.exported.name == "fast"
    assert "on the validation part no file passed" in found.reason


def test_a_teacher_that_knows_the_validation_items_counts_by_its_test():
    test = {"teacher": 0.90, "slow": 0.90, "fast": 0.90}
    validation = {"teacher": 1.0, "slow": 0.91, "fast": 0.88}
    found = chosen(test, validation, is_teacher_ahead=True)
    assert found.exported.name == "slow"
    assert chosen(test, validation).exported.name == "fast"  # both miss: the last


def test_without_validation_answers_the_test_part_is_all_there_is():
    found = chosen({"teacher": 0.90, "slow": 0.90, "fast": 0.80}, {})
    assert found.exported.name == "slow"


def test_a_run_keeps_what_it_chose_by_apart_from_what_it_reports(finished):
    reported, known = read(finished.out), read(finished.out / "validation.jsonl")
    judged = [r for r in reported if r.metric == "accuracy.top1"]
    assert {r.n for r in judged} == {48}
    assert {r.n for r in known} == {24}
    assert {r.artifact for r in known} == {r.artifact for r in judged}
    [gate] = [v for v in finished.verdicts if v.gate.startswith("accuracy")]
    assert gate.value in [r.value for r in judged if r.artifact == finished.chosen.model.id]


def test_what_is_judged_on_validation_is_what_the_model_answers_there(finished):
    known = read(finished.out / "validation.jsonl")
    by_hand = {m.id: m for m in finished.models if not m.is_quantized}
    data = load(load_recipe(finished.out / "recipe.yaml").data)
    for record in known:
        if record.metric == "accuracy.top1" and record.artifact in by_hand:
            model = load_model(by_hand[record.artifact])
            expected = accuracy(model, data.validation, data.preprocessing)
            assert record.value == pytest.approx(expected, abs=1 / 24 + 1e-9)
