"""The verdict in words, and numbers as people read them."""

from __future__ import annotations

import pytest

from kdeploy.gate import Verdict
from kdeploy.report.run import comparison
from kdeploy.report.wording import (
    gate_reason,
    quantity,
    settings,
    span,
    state_sentence,
    times,
    verdict_sentence,
)


def test_the_verdict_names_both_files_the_cell_and_the_four_numbers(demo):
    text = verdict_sentence(comparison([demo]))
    assert text.startswith("int8 on onnxruntime_cpu, batch 1, 1 thread, against teacher:")
    assert "87.00 % top-1 accuracy (-3.00 pp, 96.7 % of the baseline's 90.00 %)" in text
    assert "10.0x faster (p50 100 µs instead of 1 ms, 95 % interval 9.80x to 10.2x)" in text
    assert "20.0x smaller (50 B instead of 1000 B)" in text
    assert "80.0 % fewer parameters (20 instead of 100)" in text


@pytest.mark.parametrize(
    ("p50", "spread", "text"),
    [
        (2e-3, 0.01, "slower: 0.50x the speed"),
        (1e-3, 0.01, "no difference in speed"),
        (1e-4, 0.01, "10.0x faster"),
    ],
)
def test_a_slower_file_is_said_to_be_slower(records_of, write_run, p50, spread, text):
    records = [*records_of("teacher"), *records_of("student", p50=p50, spread=spread)]
    assert text in verdict_sentence(comparison([write_run(records)]))


def test_a_larger_file_is_said_to_be_larger(records_of, write_run):
    records = [*records_of("teacher"), *records_of("student", size=3000, parameters=150)]
    text = verdict_sentence(comparison([write_run(records)]))
    assert "3.00x larger" in text
    assert "50.0 % more parameters" in text


def test_without_a_common_metric_nothing_is_claimed(records_of, write_run):
    records = [
        record
        for label, runtime in (("teacher", "openvino"), ("student", "onnxruntime_cpu"))
        for record in records_of(label, runtimes=(runtime,))
        if record.runtime
    ]
    assert "no metric of it" in verdict_sentence(comparison([write_run(records)]))


def test_the_state_counts_gates_and_says_why(demo):
    text = state_sentence(comparison([demo]))
    assert text == "2 of 4 gates passed. Packaged: int8. Why: it is the smallest."


def test_the_state_says_that_nothing_was_packaged(records_of, write_run):
    summary = {"packaged": None, "chosen_because": "no file passes all gates"}
    folder = write_run(records_of("teacher"), summary=summary)
    text = state_sentence(comparison([folder]))
    assert text == "Nothing was packaged. Why: no file passes all gates."


def test_a_reason_is_made_from_the_value_where_none_is_kept():
    gate = Verdict(gate="latency.p50: <= 2ms", value=0.001, passed=True, reason="")
    assert gate_reason(gate) == "1 ms"
    missing = Verdict(gate="latency.p50: <= 2ms", value=None, passed=False, reason="")
    assert gate_reason(missing) == "not measured"


@pytest.mark.parametrize(
    ("factor", "text"), [(0.5, "0.50x"), (12.345, "12.3x"), (123.4, "123x"), (1.0, "1.00x")]
)
def test_factors_have_three_digits(factor, text):
    assert times(factor) == text


def test_an_interval_says_its_unit_once():
    assert span("57.1 µs", "58.3 µs") == "57.1 to 58.3 µs"
    assert span("998 µs", "1.02 ms") == "998 µs to 1.02 ms"
    assert span("1.90x", "2.10x") == "1.90x to 2.10x"


def test_rates_are_scaled():
    assert quantity(22676.0, "items/s") == "22.7 K items/s"


def test_settings_are_one_line():
    assert settings({"a": {"b": [1, 2.50]}, "c": None}) == "a={b: [1, 2.5]}, c=None"
