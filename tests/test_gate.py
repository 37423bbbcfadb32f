"""Gates are read by one grammar and judged against measurements."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdeploy.errors import KdeployError, RecipeError, UnknownName
from kdeploy.gate import judge, parse_gate, parse_gates, times_better
from kdeploy.measurement import METRICS, Measurement


def measured(metric, value, **fields):
    return Measurement(artifact="a", label="model", metric=metric, value=value, **fields)


@pytest.mark.parametrize(
    ("text", "metric", "form", "bound"),
    [
        ("latency.p50: <= 2ms", "latency.p50", "at_most", 0.002),
        ("size: <= 100KB", "size", "at_most", 100_000),
        ("accuracy.top1: >= 90%", "accuracy.top1", "at_least", 0.9),
        ("accuracy.top1: >= 0.9", "accuracy.top1", "at_least", 0.9),
        ("accuracy.top1: -1.0pp", "accuracy.top1", "lose", 0.01),
        ("size: +5%", "size", "grow", 0.05),
        ("latency.p50: 3x", "latency.p50", "times", 3),
        ("throughput: >= 2K", "throughput", "at_least", 2000),
        ("energy: <= 2mJ", "energy", "at_most", 0.002),
        ("parameters <= 1e5", "parameters", "at_most", 100_000),
    ],
)
def test_reads_the_grammar(text, metric, form, bound):
    gate = parse_gate(text)
    assert (gate.metric, gate.form, gate.bound) == (metric, form, pytest.approx(bound))
    assert gate.text == text


@pytest.mark.parametrize(
    "text",
    [
        "latency.p50",
        "latency.p50: fast",
        "latency.p50: 2ms",
        "latency.p50: < 2ms",
        "latency.p50: <= 2KB",
        "latency.p50: -1pp",
        "latency.p50: -3x",
        "latency.p50: 3msx",
        "accuracy.top1: +1pp",
        "size: -5%",
        "size: <= 1.2.3KB",
    ],
)
def test_refuses_what_is_not_of_the_grammar(text):
    with pytest.raises(KdeployError) as caught:
        parse_gate(text, where="gates[0]")
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_an_unknown_metric_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match=r"there is no metric `latency.p5`") as caught:
        parse_gate("latency.p5: <= 2ms")
    assert "did you mean `latency.p50`" in caught.value.hint


def test_the_place_of_a_wrong_gate_is_named():
    with pytest.raises(RecipeError, match=r"gates\[1\]"):
        parse_gates(["size: <= 1KB", "nonsense"])


@pytest.mark.parametrize(
    ("text", "value", "passed"),
    [
        ("size: <= 100B", 100, True),
        ("size: <= 100B", 101, False),
        ("size: +5%", 105, True),
        ("size: +5%", 106, False),
        ("size: 2x", 50, True),
        ("size: 2x", 51, False),
        ("throughput: 2x", 200, True),
        ("throughput: 2x", 199, False),
        ("throughput: >= 10", 9, False),
    ],
)
def test_judges_against_a_baseline_of_one_hundred(text, value, passed):
    gate = parse_gate(text)
    [verdict] = judge([gate], [measured(gate.metric, value)], [measured(gate.metric, 100)])
    assert verdict.passed is passed
    assert verdict.value == value


def test_a_loss_of_exactly_the_bound_passes():
    gate = parse_gate("accuracy.top1: -1.0pp")
    for value, passed in [(0.97, True), (0.9699, False), (1.0, True)]:
        found = [measured("accuracy.top1", value)]
        assert judge([gate], found, [measured("accuracy.top1", 0.98)])[0].passed is passed


@pytest.mark.parametrize("text", ["size: <= 1GB", "size: +5%", "size: 2x"])
def test_a_missing_measurement_fails(text):
    gate = parse_gate(text)
    [verdict] = judge([gate], [], [measured("size", 1)])
    assert (verdict.passed, verdict.value) == (False, None)
    assert "not measured" in verdict.reason
    skipped = measured("size", None, skipped="no such runtime")
    assert not judge([gate], [skipped], [measured("size", 1)])[0].passed


@pytest.mark.parametrize(
    ("gate", "value", "missed_by"),
    [
        ("latency.p50: <= 2ms", 0.0022, "10.0%"),
        ("throughput: >= 200", 150.0, "25.0%"),
        ("accuracy.top1: >= 90%", 0.88, "2 pp"),
        ("accuracy.top1: -1pp", 0.93, "1 pp"),
        ("latency.p50: +10%", 2.2, "110.5%"),
        ("latency.p50: 2x", 0.95, "50.0%"),
        ("size: <= 0B", 5, "5 B"),
    ],
)
def test_a_gate_that_failed_says_by_how_much(gate, value, missed_by):
    metric = parse_gate(gate).metric
    [verdict] = judge([parse_gate(gate)], [measured(metric, value)], [measured(metric, 0.95)])
    assert not verdict.passed
    assert verdict.reason.endswith(f", missed by {missed_by}")


def test_a_missing_baseline_fails_what_compares_and_nothing_else():
    verdicts = judge(parse_gates(["size: 2x", "size: <= 9B"]), [measured("size", 1)])
    assert [v.passed for v in verdicts] == [False, True]


def test_a_value_that_is_not_a_number_fails_every_gate():
    gates = parse_gates(["size: <= 1GB", "size: >= 0", "size: +5%", "size: 2x"])
    verdicts = judge(gates, [measured("size", float("nan"))], [measured("size", 1)])
    assert [v.passed for v in verdicts] == [False] * 4


def test_judges_on_the_cell_that_was_asked_for():
    records = [
        measured("latency.p50", 0.001, runtime="fast", batch_size=1),
        measured("latency.p50", 0.009, runtime="slow", batch_size=1),
        measured("accuracy.top1", 0.9, runtime="slow", batch_size=64),
        measured("size", 10),
    ]
    gates = parse_gates(["latency.p50: <= 2ms", "accuracy.top1: >= 80%", "size: <= 10B"])
    verdicts = judge(gates, records, runtime="slow", batch_size=1)
    assert [v.passed for v in verdicts] == [False, True, True]


@given(
    metric=st.sampled_from(sorted(METRICS)),
    value=st.floats(1e-6, 1e6),
    baseline=st.floats(1e-6, 1e6),
    factor=st.floats(0.01, 100),
)
def test_times_better_is_above_one_exactly_when_better(metric, value, baseline, factor):
    ratio = times_better(value, baseline, metric)
    is_better = value < baseline if METRICS[metric].better == "lower" else value > baseline
    assert (ratio > 1) == is_better
    gate = parse_gate(f"{metric}: {factor:.6f}x")
    [verdict] = judge([gate], [measured(metric, value)], [measured(metric, baseline)])
    assert verdict.passed == (ratio >= gate.bound)


def test_a_verdict_is_plain_data():
    [verdict] = judge([parse_gate("size: <= 9B")], [measured("size", 1)])
    assert verdict.to_dict() == {
        "gate": "size: <= 9B",
        "value": 1,
        "passed": True,
        "reason": "1 B against 9 B",
        "label": "",
    }


def test_a_missing_value_says_why_where_its_record_does():
    record = Measurement(
        artifact="a", label="a", metric="accuracy.top1", value=None, skipped="15 rows of NaN"
    )
    (verdict,) = judge(parse_gates(["accuracy.top1: >= 0.5"]), [record])
    assert not verdict.passed
    assert verdict.reason == "accuracy.top1 was not measured: 15 rows of NaN"
