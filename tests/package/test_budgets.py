"""Gates as absolute bounds."""

from __future__ import annotations

import pytest

from kdeploy.errors import InputError
from kdeploy.gate import parse_gates
from kdeploy.package.budgets import DEVICE_METRICS, budgets_of, recorded_values

RECORDED = {"accuracy.top1": 0.95, "parameters": 20e3, "macs": 1e6}
BASELINE = {"accuracy.top1": 0.97, "parameters": 1e6, "size": 4e6, "macs": 1e8}


@pytest.mark.parametrize(
    ("gate", "is_upper", "bound", "judged"),
    [
        ("peak_memory: <= 128MB", True, 128e6, "device"),
        ("latency.p99: <= 2ms", True, 0.002, "device"),
        ("throughput: >= 100", False, 100, "device"),
        ("accuracy.top1: >= 0.9", False, 0.9, "recorded"),
        ("accuracy.top1: -1.0pp", False, 0.96, "recorded"),
        ("parameters: 20x", True, 50e3, "recorded"),
        ("size: 10x", True, 400e3, "device"),
        ("macs: +5%", True, 1.05e8, "recorded"),
        ("accuracy.top1: 0.9x", False, 0.873, "recorded"),
    ],
)
def test_a_gate_becomes_a_bound_that_needs_no_baseline(gate, is_upper, bound, judged):
    (budget,) = budgets_of(parse_gates([gate]), RECORDED, BASELINE)
    assert budget.gate == gate
    assert budget.is_upper == is_upper
    assert budget.bound == pytest.approx(bound)
    assert budget.judged == judged


@pytest.mark.parametrize("gate", ["latency.p50: 3x", "peak_memory: +5%", "accuracy.f1_macro: -1pp"])
def test_a_comparison_without_a_recorded_baseline_is_refused(gate):
    with pytest.raises(InputError, match="baseline") as error:
        budgets_of(parse_gates([gate]), RECORDED, {**BASELINE, "latency.p50": 1.0})
    assert "absolute bound" in error.value.hint


def test_a_metric_that_nobody_can_judge_is_refused():
    with pytest.raises(InputError, match=r"agreement\.top1 was not recorded") as error:
        budgets_of(parse_gates(["agreement.top1: >= 0.9"]), RECORDED, {})
    assert all(metric in error.value.hint for metric in DEVICE_METRICS)


def test_only_metrics_are_recorded_and_accuracy_wins_over_facts():
    accuracy = {"accuracy.top1": 0.9, "n": 450, "baseline": {}, "parameters": 2, "macs": None}
    facts = {"parameters": 1, "size": 5, "opset": 18, "energy": None}
    found = recorded_values(accuracy, facts)
    assert found == {"accuracy.top1": 0.9, "parameters": 2.0, "size": 5.0}
