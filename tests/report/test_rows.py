"""Rows: which records stand in which row, ratios against an independent formula, verdicts."""

from __future__ import annotations

import pytest

from kdeploy.measurement import Measurement
from kdeploy.report.rows import ratio_of
from kdeploy.report.run import comparison


def record(value, low=None, high=None, *, metric="latency.p50"):
    return Measurement(artifact="a", label="a", metric=metric, value=value, low=low, high=high)


def rows_by_label(*folders, **options):
    return {row.label: row for row in comparison(list(folders), **options).rows}


def test_the_teacher_comes_first_in_each_cell(records_of, write_run):
    cells = {"runtimes": ("onnxruntime_cpu", "openvino"), "batch_sizes": (1, 8)}
    folder = write_run([*records_of("student", **cells), *records_of("teacher", **cells)])
    labels = [row.label for row in comparison([folder]).rows]
    assert labels == ["teacher", "student"] * 4


def test_a_ratio_is_how_many_times_better_whichever_way_that_is(demo):
    row = rows_by_label(demo)["int8"]
    cell = next(r for r in comparison([demo]).rows if r.label == "int8" and not r.skipped)
    assert cell.values["latency.p50"].ratio.times == pytest.approx(1e-3 / 1e-4)
    assert cell.values["size"].ratio.times == pytest.approx(1000 / 50)
    assert cell.values["parameters"].ratio.times == pytest.approx(100 / 20)
    assert cell.values["accuracy.top1"].ratio.times == pytest.approx(0.87 / 0.90)
    assert row.number("size") == 50


def test_the_baseline_has_no_ratio(demo):
    teacher = rows_by_label(demo)["teacher"]
    assert all(value.ratio is None for value in teacher.values.values())


def test_an_interval_takes_the_worst_of_both_sides():
    ratio = ratio_of(record(1.0, 0.9, 1.2), record(10.0, 8.0, 11.0))
    assert (ratio.low, ratio.high) == pytest.approx((8.0 / 1.2, 11.0 / 0.9))
    ratio = ratio_of(
        record(0.8, 0.7, 0.9, metric="throughput"), record(0.4, 0.3, 0.5, metric="throughput")
    )
    assert (ratio.low, ratio.high) == pytest.approx((0.7 / 0.5, 0.9 / 0.3))


@pytest.mark.parametrize(
    ("metric", "candidate", "baseline", "verdict"),
    [
        ("latency.p50", (1.0, 0.99, 1.01), (2.0, 1.99, 2.01), "faster"),
        ("latency.p50", (2.0, 1.99, 2.01), (1.0, 0.99, 1.01), "slower"),
        ("latency.p50", (1.0, 0.8, 1.2), (1.1, 0.9, 1.3), "no difference"),
        ("latency.p50", (1.0, 1.0, 1.0), (1.01, 1.01, 1.01), "no difference"),
        ("accuracy.top1", (0.9, 0.88, 0.92), (0.95, 0.94, 0.96), "worse"),
        ("accuracy.top1", (0.9, 0.88, 0.92), (0.91, 0.89, 0.93), "no difference"),
        ("latency.p50", (1.0, None, None), (2.0, None, None), ""),
        ("size", (1.0, None, None), (2.0, None, None), "better"),
        ("size", (2.0, None, None), (2.0, None, None), "no difference"),
    ],
)
def test_verdicts_need_intervals_that_exclude_no_difference(metric, candidate, baseline, verdict):
    found = ratio_of(record(*candidate, metric=metric), record(*baseline, metric=metric))
    assert found.verdict == verdict


def test_a_paired_comparison_goes_before_the_intervals(records_of, write_run):
    pair = {"label": "student", "baseline": "teacher", "runtime": "onnxruntime_cpu"}
    pair |= {"batch_size": 1, "threads": 1, "metric": "latency.p50"}
    pair |= {"ratio": 1.9, "low": 1.8, "high": 2.0, "verdict": "faster"}
    records = [*records_of("teacher", p50=2e-3), *records_of("student", p50=1e-3)]
    row = rows_by_label(write_run(records, comparisons=[pair]))["student"]
    ratio = row.values["latency.p50"].ratio
    assert (ratio.times, ratio.low, ratio.high) == (1.9, 1.8, 2.0)
    other = rows_by_label(write_run(records, comparisons=[{**pair, "batch_size": 8}]))["student"]
    assert other.values["latency.p50"].ratio.times == pytest.approx(2.0)


def test_speeds_are_never_compared_across_runtimes_or_machines(records_of, write_run):
    here = write_run(
        [*records_of("teacher"), *records_of("student", runtimes=("openvino",))], name="here"
    )
    there = write_run(records_of("int8", machine="another"), name="there")
    rows = rows_by_label(here, there)
    assert rows["student"].values["latency.p50"].ratio is None
    assert rows["int8"].values["latency.p50"].ratio is None
    assert rows["int8"].values["size"].ratio is not None


def test_accuracy_stands_in_every_row_of_its_runtime_only(records_of, write_run):
    records = records_of("teacher", batch_sizes=(1, 8), accuracy=0.5)
    records += records_of("teacher", runtimes=("openvino",), accuracy=0.7)
    found = {(r.runtime, r.batch_size): r for r in comparison([write_run(records)]).rows}
    assert {k: r.number("accuracy.top1") for k, r in found.items()} == {
        ("onnxruntime_cpu", 1): 0.5,
        ("onnxruntime_cpu", 8): 0.5,
        ("openvino", 1): 0.7,
    }


def test_a_model_and_its_file_keep_their_own_sizes(records_of, write_run):
    one = {"artifact": "same", "batch_sizes": (1,)}
    records = records_of("student", size=400, runtimes=("torch_eager",), **one)
    records += records_of("student", size=90, profile="cpu", **one)
    folder = write_run(records, summary={"packaged": "same"})
    rows = {r.runtime: r for r in comparison([folder]).rows}
    assert rows["torch_eager"].number("size") == 400
    assert rows["onnxruntime_cpu"].number("size") == 90
    assert [r.runtime for r in rows.values() if r.is_packaged] == ["onnxruntime_cpu"]


def test_what_is_measured_without_a_runtime_is_a_row_of_its_own(records_of, write_run):
    folder = write_run(records_of("teacher", runtimes=()))
    (row,) = comparison([folder]).rows
    assert (row.runtime, row.number("size")) == ("", 1000)


def test_a_p99_of_few_samples_is_doubted(records_of, write_run):
    many, few = records_of("teacher", n=1000), records_of("student", n=999)
    rows = rows_by_label(write_run([*many, *few]))
    assert "few_samples" not in rows["teacher"].flags
    assert rows["student"].flags["few_samples"] == ["latency.p99"]


def test_a_cell_that_could_not_run_keeps_its_reason(demo):
    (row,) = [row for row in comparison([demo]).rows if row.skipped]
    assert (row.label, row.runtime) == ("int8", "openvino")
    assert row.skipped == "killed by signal 9 <after 600 s>"
    assert row.number("size") == 50


def test_the_headline_is_the_packaged_file_in_a_cell_with_a_speed_up(demo):
    headline = comparison([demo]).headline
    assert (headline.label, headline.runtime) == ("int8", "onnxruntime_cpu")


def test_without_a_package_the_headline_is_the_last_that_was_measured(records_of, write_run):
    folder = write_run([*records_of("teacher"), *records_of("a"), *records_of("b")])
    assert comparison([folder]).headline.label == "b"


def test_a_baseline_alone_has_no_headline(records_of, write_run):
    assert comparison([write_run(records_of("teacher"))]).headline is None


def test_a_file_that_could_not_run_does_not_borrow_the_size_of_its_model(records_of, write_run):
    model = {"artifact": "same", "label": "student", "machine": "0123456789ab"}
    torch_cell = {**model, "runtime": "torch_eager", "batch_size": 1, "threads": 1}
    file_cell = {**model, "runtime": "openvino", "batch_size": 1, "threads": 1, "profile": "cpu"}
    records = [
        Measurement(metric="latency.p50", value=1.0, **torch_cell),
        Measurement(metric="size", value=400, **torch_cell),
        Measurement(metric="latency.p50", value=None, skipped="crashed", **file_cell),
    ]
    crashed = next(r for r in comparison([write_run(records)]).rows if r.runtime == "openvino")
    assert crashed.number("size") is None
    known = Measurement(metric="size", value=90, **{**file_cell, "runtime": "onnxruntime_cpu"})
    rows = comparison([write_run([*records, known])]).rows
    assert next(r for r in rows if r.runtime == "openvino").number("size") == 90


def test_no_ratio_is_made_of_a_p99_of_few_samples(records_of, write_run):
    enough = [*records_of("teacher"), *records_of("student")]
    assert rows_by_label(write_run(enough))["student"].values["latency.p99"].ratio is not None
    short = [*records_of("teacher", n=20), *records_of("student")]
    assert rows_by_label(write_run(short))["student"].values["latency.p99"].ratio is None
