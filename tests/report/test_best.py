"""The best configuration of each device: the fastest within the gates, else the nearest."""

from __future__ import annotations

from kdeploy.gate import parse_gates
from kdeploy.measurement import Measurement
from kdeploy.report.best import best_rows
from kdeploy.report.comparison import MeasuredValue, Row
from kdeploy.report.run import comparison


def best(folder, *gates, **options):
    return comparison([folder], gates=parse_gates(gates), **options).best


def test_the_fastest_of_each_machine_and_batch_size(records_of, write_run):
    both = {"batch_sizes": (1, 8)}
    records = [
        record
        for machine in ("m1", "m2")
        for record in (
            *records_of("teacher", machine=machine, **both),
            *records_of("student", machine=machine, p50=1e-4, runtimes=("a", "b"), **both),
        )
    ]
    found = best(write_run(records))
    assert [(c.row.machine, c.row.batch_size, c.row.label) for c in found] == [
        (machine, batch_size, "student") for machine in ("m1", "m2") for batch_size in (1, 8)
    ]
    assert all(choice.passed and choice.num_judged == 3 for choice in found)


def test_a_gate_rules_out_what_is_faster(records_of, write_run):
    records = [*records_of("teacher"), *records_of("good", p50=5e-4, accuracy=0.89)]
    records += records_of("fast", p50=1e-4, accuracy=0.7)
    (choice,) = best(write_run(records), "accuracy.top1: -2pp", "latency.p50: 1.5x")
    assert (choice.row.label, choice.passed, choice.num_passed) == ("good", True, 1)


def test_a_missing_measurement_fails_and_the_nearest_is_named(records_of, write_run):
    folder = write_run([*records_of("teacher"), *records_of("student", p50=1e-4)])
    drawn = comparison([folder], gates=parse_gates(["energy: <= 1mJ", "size: <= 1KB"]))
    (choice,) = drawn.best
    assert (choice.row.label, choice.passed, drawn.passed) == ("student", False, False)
    assert [v.passed for v in choice.verdicts] == [False, True]


def test_without_gates_nothing_is_broken(demo):
    drawn = comparison([demo])
    assert drawn.passed
    assert not any(choice.verdicts for choice in drawn.best)


def test_offline_is_chosen_by_throughput_whatever_the_batch_size():
    rows = [
        Row(
            run=0,
            artifact=label,
            label=label,
            machine="m",
            runtime="r",
            batch_size=batch_size,
            scenario="offline",
            values={
                metric: MeasuredValue(
                    record=Measurement(artifact="", label="", metric=metric, value=value)
                )
                for metric, value in (("throughput", rate), ("latency.p50", batch_size / rate))
            },
        )
        for label, batch_size, rate in (("teacher", 4, 100.0), ("student", 64, 900.0))
    ]
    (choice,) = best_rows(rows)
    assert choice.row.label == "student"
    assert rows[0].configuration == rows[1].configuration


def test_where_nothing_was_measured_gates_fail(records_of, write_run):
    sizes = [record for record in records_of("net") if record.metric == "size"]
    drawn = comparison([write_run(sizes)], gates=parse_gates(["latency.p50: <= 1s"]))
    assert not drawn.passed
    empty = comparison([write_run([], name="empty")], gates=parse_gates(["size: <= 1KB"]))
    assert not empty.passed
    assert comparison([write_run(sizes, name="again")]).best == ()
