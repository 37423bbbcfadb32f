"""Two versions: what got worse and better, what is gone, and the gates on the change."""

from __future__ import annotations

import pytest

from kdeploy.gate import parse_gates
from kdeploy.report.decisions import change_rows, change_sentence
from kdeploy.report.run import comparison


@pytest.fixture
def versions(write_run):
    """Return a function that compares the records of a newer version with those of an older."""

    def make(new, old, *gates):
        folder, before = write_run(new, name="new"), write_run(old, name="old")
        return comparison([folder], gates=parse_gates(gates), against=before)

    return make


def words(drawn):
    return {change.metric: change.verdict for change in drawn.against.changes}


@pytest.mark.parametrize(
    ("p50", "verdict"), [(1e-3, "no difference"), (1.02e-3, "no difference"), (1.2e-3, "worse")]
)
def test_intervals_that_overlap_are_no_difference(versions, records_of, p50, verdict):
    drawn = versions(records_of("a", p50=p50, spread=0.02), records_of("a", spread=0.02))
    assert words(drawn)["latency.p50"] == verdict


@pytest.mark.parametrize(("size", "verdict"), [(1020, "no difference"), (900, "better")])
def test_without_an_interval_a_difference_must_be_a_practical_one(
    versions, records_of, size, verdict
):
    assert words(versions(records_of("a", size=size), records_of("a")))["size"] == verdict


def test_a_p99_of_few_samples_is_not_judged(versions, records_of):
    drawn = versions(records_of("a", p50=2e-3, n=20), records_of("a", n=20))
    assert "latency.p99" not in words(drawn)


def test_another_machine_says_nothing_of_speed(versions, records_of):
    drawn = versions(records_of("a", p50=2e-3, size=2000, machine="x"), records_of("a"))
    assert words(drawn) == {"size": "worse", "parameters": "no difference"}


def test_a_size_is_told_once_however_many_rows_carry_it(versions, records_of):
    both = {"batch_sizes": (1, 8), "runtimes": ("x", "y")}
    drawn = versions(records_of("a", size=2000, **both), records_of("a", **both))
    assert [c.metric for c in drawn.against.judged("worse")] == ["size"]


def test_the_largest_loss_comes_first_and_tails_follow_their_median(versions, records_of):
    new = [*records_of("a", p50=2e-3), *records_of("b", p50=4e-3), *records_of("c", p50=5e-4)]
    drawn = versions(new, [r for label in "abc" for r in records_of(label)])
    rows = change_rows(drawn.against, drawn.machines)
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("worse", "b", "latency.p50"),
        ("worse", "a", "latency.p50"),
        ("better", "c", "latency.p50"),
    ]
    assert rows[0][-1] == "+300.0 % (times better: 0.25x to 0.26x)"
    assert change_sentence(drawn.against) == (
        "Against old, in 3 rows of both: 4 metrics got worse, 2 better, 9 show no difference."
    )


def test_a_gate_bounds_the_change_of_every_row(versions, records_of):
    new = [*records_of("a", p50=1.04e-3), *records_of("b", p50=1.2e-3)]
    drawn = versions(new, [*records_of("a"), *records_of("b")], "latency.p50: +5%")
    assert [(row.label, v.passed) for row, v in drawn.against.verdicts] == [
        ("a", True),
        ("b", False),
    ]
    assert not drawn.passed


def test_worse_alone_breaks_nothing(versions, records_of):
    assert versions(records_of("a", p50=9e-3), records_of("a"), "size: <= 1KB").passed


def test_what_is_gone_fails_its_gates(versions, records_of):
    drawn = versions(records_of("a"), [*records_of("a"), *records_of("b")], "latency.p50: +5%")
    assert [row.label for row in drawn.against.gone] == ["b"]
    assert "1 rows of old were not measured" in change_sentence(drawn.against)
    assert [(row.label, v.passed) for row, v in drawn.against.verdicts] == [
        ("a", True),
        ("b", False),
    ]


def test_a_gate_that_nothing_can_be_judged_by_fails(versions, records_of):
    assert not versions(records_of("a"), records_of("a"), "energy: +5%").passed
