from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdeploy.bench.model_under_test import Configuration, ModelUnderTest, Outcome
from kdeploy.bench.records import comparisons, measurements
from kdeploy.gate import judge, parse_gates
from kdeploy.machine import Machine
from kdeploy.runtimes.contract import Proof

MACHINE = Machine(
    id="m1",
    cpu="c",
    architecture="x86_64",
    cores=2,
    is_virtual=True,
    instruction_sets=("avx_vnni",),
)
CELL = Configuration(runtime="fake", batch_size=4, threads=2)


@pytest.fixture
def outcome(float_file):
    rng = np.random.default_rng(0)
    rounds = tuple(rng.lognormal(-7, 0.01, 100) for _ in range(8))
    return Outcome(
        model=ModelUnderTest(
            artifact="a1", label="student", path=float_file, format="onnx", profile="cpu", macs=77
        ),
        configuration=CELL,
        load_seconds=0.2,
        first_seconds=0.5,
        rounds=rounds,
        elapsed_seconds=tuple(1.01 * r.sum() for r in rounds),
        peak_memory_bytes=50_000_000,
        proof=Proof(provider="fake", eligible=4, integer=3, is_quantized=True),
        accuracy={"accuracy.top1": 0.75, "accuracy.f1_macro": 0.7},
        predictions=np.array([0, 1, 2, 1]),
        flags=("random_inputs",),
    )


def _by_metric(outcome, **options):
    options = {"reference_predictions": None, **options}
    return {m.metric: m for m in measurements(outcome, MACHINE, **options)}


def test_every_metric_of_the_contract_is_there_once(outcome):
    records = measurements(outcome, MACHINE, reference_predictions=np.array([0, 1, 2, 2]))
    names = [r.metric for r in records]
    assert sorted(names) == sorted(
        [
            *("latency.mean", "latency.p50", "latency.p90", "latency.p99", "throughput"),
            *("load_time", "first_inference", "peak_memory", "size", "parameters", "macs"),
            *("integer_kernels", "accuracy.top1", "accuracy.f1_macro", "agreement.top1"),
        ]
    )
    assert {(r.artifact, r.label, r.profile, r.runtime) for r in records} == {
        ("a1", "student", "cpu", "fake")
    }
    assert {(r.batch_size, r.threads, r.device, r.machine) for r in records} == {
        (4, 2, "cpu", "m1")
    }


def test_numbers_are_those_of_the_samples(outcome):
    found = _by_metric(outcome, reference_predictions=np.array([0, 1, 2, 2]))
    samples = np.concatenate(outcome.rounds)
    assert found["latency.p90"].value == pytest.approx(np.percentile(samples, 90))
    assert found["latency.mean"].value == pytest.approx(samples.mean())
    assert found["throughput"].value == pytest.approx(4 * 800 / (1.01 * samples.sum()))
    assert found["latency.p50"].n == 800
    assert found["latency.p50"].low < found["latency.p50"].value < found["latency.p50"].high
    assert found["agreement.top1"].value == 0.75
    assert found["accuracy.top1"].low < 0.75 < found["accuracy.top1"].high
    assert found["integer_kernels"].value == 0.75


def test_flags_stand_where_they_belong(outcome):
    found = _by_metric(outcome)
    assert found["latency.p50"].flags == ("virtual_machine", "random_inputs")
    assert found["latency.p99"].flags == ("virtual_machine", "random_inputs", "p99_bound")
    assert found["first_inference"].flags == ("virtual_machine", "slow_first_run")
    assert found["accuracy.top1"].flags == found["size"].flags == ()


def test_int8_that_ran_in_float_is_flagged_and_counts_zero(outcome):
    idle = Proof(provider="fake", eligible=4, integer=0, is_quantized=True)
    found = _by_metric(replace(outcome, proof=idle))
    assert found["integer_kernels"].value == 0.0
    assert "no_op_int8" in found["integer_kernels"].flags
    assert "no_op_int8" in found["latency.p50"].flags


def test_a_float_file_has_no_integer_kernels(outcome):
    plain = Proof(provider="fake", eligible=4)
    assert "integer_kernels" not in _by_metric(replace(outcome, proof=plain))


def _with_samples(outcome, count):
    samples = np.random.default_rng(3).lognormal(-7, 0.2, count)
    rounds = tuple(np.array_split(samples, 8))
    return replace(outcome, rounds=rounds, elapsed_seconds=tuple(r.sum() for r in rounds))


def test_a_p99_of_a_thousand_samples_is_their_percentile(outcome):
    many = _with_samples(outcome, 1000)
    p99 = _by_metric(many)["latency.p99"]
    assert p99.value == pytest.approx(np.percentile(np.concatenate(many.rounds), 99))
    assert "p99_bound" not in p99.flags
    assert p99.low < p99.value < p99.high


def test_a_p99_of_fewer_is_a_bound_that_discards_what_may_be_late(outcome):
    some = _with_samples(outcome, 999)
    p99 = _by_metric(some)["latency.p99"]
    assert p99.value == np.sort(np.concatenate(some.rounds))[-1 - 2]
    assert "p99_bound" in p99.flags
    assert p99.low is p99.high is None


def test_a_p99_without_a_bound_is_skipped_with_what_it_needs(outcome):
    p99 = _by_metric(_with_samples(outcome, 458))["latency.p99"]
    assert p99.value is None
    assert "needs 459 batches, there were 458" in p99.skipped


def test_device_times_are_records_of_their_own(outcome):
    timed = replace(outcome, device_rounds=tuple(r / 2 for r in outcome.rounds))
    found = _by_metric(timed)
    samples = np.concatenate(timed.device_rounds)
    assert found["device_latency.p50"].value == pytest.approx(np.median(samples))
    assert found["device_latency.p99"].flags[-1] == "p99_bound"
    assert found["latency.p50"].value == _by_metric(outcome)["latency.p50"].value


def test_sparse_kernels_are_those_of_the_layers_that_could(outcome):
    found = _by_metric(replace(outcome, proof=Proof(provider="p", sparse_eligible=4, sparse=1)))
    assert found["sparse_kernels"].value == 0.25
    assert found["sparse_kernels"].n == 4
    unused = _by_metric(replace(outcome, proof=Proof(provider="p", sparse_eligible=4)))
    assert unused["sparse_kernels"].value == 0.0
    assert "sparse_not_used" in unused["sparse_kernels"].flags
    assert "sparse_not_used" in unused["latency.p50"].flags


def test_conditions_stand_in_every_record_and_swept_sizes_not_in_accuracy(outcome):
    configuration = replace(CELL, scenario="offline", size=(6,))
    swept = replace(
        outcome,
        configuration=configuration,
        input_shape=(2, 6, 6),
        largest_batch=32,
        numbers={"offline_batch_size": 32},
        missing={"energy": "no counter"},
    )
    found = _by_metric(swept)
    assert {(r.scenario, r.batch_size) for r in found.values()} == {("offline", 32)}
    shapes = {found[metric].input_shape for metric in ("latency.p50", "size", "energy")}
    assert shapes == {"2x6x6"}
    assert found["accuracy.top1"].input_shape == ""
    assert found["offline_batch_size"].value == 32
    rate = 32 * 800 / sum(outcome.elapsed_seconds)
    assert found["throughput"].value == pytest.approx(rate)
    assert _by_metric(outcome)["latency.p50"].input_shape == ""


def test_a_server_has_a_rate_in_place_of_a_throughput_and_no_ratio(outcome):
    served = replace(
        outcome, configuration=replace(CELL, scenario="server"), numbers={"server_rate": 120.0}
    )
    found = _by_metric(served)
    assert found["server_rate"].value == 120.0
    assert "throughput" not in found
    other = replace(served, model=replace(served.model, label="teacher"))
    assert comparisons([other, served], baseline="teacher") == []


def test_batches_of_different_sizes_are_compared_by_throughput_alone(outcome):
    configuration = replace(CELL, scenario="offline")
    large, small = (
        replace(
            outcome,
            configuration=configuration,
            largest_batch=size,
            model=replace(outcome.model, label=n),
        )
        for size, n in ((32, "student"), (16, "teacher"))
    )
    [found] = comparisons([small, large], baseline="teacher")
    assert (found["metric"], found["scenario"], found["batch_size"]) == (
        "throughput",
        "offline",
        32,
    )
    assert found["ratio"] == pytest.approx(2.0)


def test_parameters_are_counted_where_nobody_told_them(outcome):
    assert _by_metric(outcome)["parameters"].value == 4 * 2 * 9 + 4 + 3 * 144 + 3
    told = replace(outcome, model=replace(outcome.model, parameters=9))
    assert _by_metric(told)["parameters"].value == 9


def test_the_size_of_an_artefact_is_that_of_its_tensors(outcome, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1" * 100)
    (tmp_path / "manifest.json").write_text("{}")
    model = replace(outcome.model, path=tmp_path, format="torch")
    assert _by_metric(replace(outcome, model=model))["size"].value == 100


def test_what_was_skipped_is_one_record_with_its_reason(outcome):
    (record,) = measurements(
        Outcome(model=outcome.model, configuration=CELL, skipped="crashed"),
        MACHINE,
        reference_predictions=None,
    )
    assert (record.metric, record.value, record.skipped) == ("latency.p50", None, "crashed")


def test_accuracy_that_failed_alone_leaves_the_times(outcome):
    failed = replace(
        outcome, accuracy={}, predictions=None, missing={"accuracy.top1": "ran out of luck"}
    )
    found = _by_metric(failed)
    assert found["accuracy.top1"].value is None
    assert found["accuracy.top1"].skipped == "ran out of luck"
    assert found["latency.p50"].value > 0


def test_a_ratio_says_how_many_times_better_whichever_way_that_is(outcome):
    slow = replace(
        outcome,
        model=replace(outcome.model, label="teacher"),
        rounds=tuple(2 * r for r in outcome.rounds),
        elapsed_seconds=tuple(2 * s for s in outcome.elapsed_seconds),
    )
    found = comparisons([slow, outcome], baseline="teacher")
    assert [c["metric"] for c in found] == ["latency.p50", "throughput"]
    for line in found:
        assert line["ratio"] == pytest.approx(2.0)
        assert line["low"] <= 2.0 <= line["high"]
        assert (line["label"], line["baseline"]) == ("student", "teacher")
        assert line["verdict"] == "faster"
    (backwards, _) = comparisons([slow, outcome], baseline="student")
    assert backwards["ratio"] == pytest.approx(0.5)
    assert backwards["verdict"] == "slower"


def test_a_dynamic_model_is_compared_by_its_mean_and_marked(outcome):
    large = replace(outcome, model=replace(outcome.model, label="teacher"))
    # Most items are answered early, ten times as fast; the others take three times as long.
    mixed = tuple(np.where(np.arange(len(r)) % 5 < 3, r / 10, 3 * r) for r in outcome.rounds)
    model = replace(outcome.model, label="cascade", format="dynamic")
    cascade = replace(
        outcome,
        model=model,
        rounds=mixed,
        elapsed_seconds=tuple(float(r.sum()) for r in mixed),
    )
    by_metric = {c["metric"]: c for c in comparisons([large, cascade], baseline="teacher")}
    assert list(by_metric) == ["latency.mean", "latency.p50", "throughput"]
    assert all(line["flags"] == ["dynamic"] for line in by_metric.values())
    assert by_metric["latency.p50"]["verdict"] == "faster"
    assert by_metric["latency.mean"]["ratio"] < 1
    assert by_metric["latency.mean"]["verdict"] == "slower"
    # The other way round, the dynamic one is what is compared with: the doubt is the same.
    backwards = comparisons([large, cascade], baseline="cascade")
    assert all(line["flags"] == ["dynamic"] for line in backwards)
    assert all("flags" not in line for line in comparisons([large, outcome], baseline="teacher"))


def test_without_a_measured_baseline_there_is_nothing_to_compare(outcome):
    gone = Outcome(
        model=replace(outcome.model, label="teacher"), configuration=CELL, skipped="crashed"
    )
    assert comparisons([gone, outcome], baseline="teacher") == []


def test_answers_of_no_numbers_leave_accuracy_without_a_value(outcome):
    broken = replace(outcome, predictions=np.array([0, -1, 2, -1]), accuracy={})
    found = _by_metric(broken, reference_predictions=np.array([0, 1, 2, 2]))
    for metric in ("accuracy.top1", "accuracy.f1_macro", "agreement.top1"):
        record = found[metric]
        assert record.value is None
        assert record.flags == ("not_finite",)
        assert "2 of 4 test items" in record.skipped
        assert "counted from 0: 1)" in record.skipped
    verdict = judge(parse_gates(["accuracy.top1: >= 0"]), list(found.values()))[0]
    assert not verdict.passed


def test_a_baseline_of_no_numbers_agrees_with_nobody(outcome):
    found = _by_metric(outcome, reference_predictions=np.array([-1, 1, 2, 2]))
    assert found["accuracy.top1"].value == 0.75
    assert found["agreement.top1"].value is None
    assert found["agreement.top1"].skipped.startswith("the baseline: ")


def test_a_metric_that_is_no_number_is_flagged(outcome):
    accuracy = {"accuracy.top1": 0.75, "perplexity": float("nan")}
    found = _by_metric(replace(outcome, accuracy=accuracy))["perplexity"]
    assert (found.value, found.flags) == (None, ("not_finite",))
