"""Student and baseline over seeds: mean, sample standard deviation, and what lies between."""

from __future__ import annotations

from kdeploy.report.run import comparison, render
from kdeploy.report.seeds import seed_rows

SEEDS = {
    "student": {"accuracy": [0.90, 0.92, 0.91], "mean": 0.91, "std": 0.01, "n": 3},
    "baseline": {"accuracy": [0.88, 0.89, 0.87], "mean": 0.88, "std": 0.01, "n": 3},
}


def test_gives_means_and_the_difference_seed_by_seed(records_of, write_run):
    drawn = comparison([write_run(records_of("teacher"), summary={"seeds": SEEDS})])
    assert seed_rows(drawn) == [
        ["student", "91.00 % ± 1.00 pp", "3"],
        ["baseline", "88.00 % ± 1.00 pp", "3"],
        ["student - baseline", "+3.00 pp ± 1.00 pp", "3"],
    ]
    for form in ("markdown", "html"):
        assert "Over seeds: mean ± standard deviation" in render(drawn, form)
    assert "| student - baseline | +3.00 pp ± 1.00 pp | 3 |" in render(drawn, "markdown")


def test_one_seed_has_no_deviation_and_a_student_alone_no_difference(records_of, write_run):
    seeds = {"student": {"accuracy": [0.9], "mean": 0.9, "n": 1}}
    drawn = comparison([write_run(records_of("teacher"), summary={"seeds": seeds})])
    assert seed_rows(drawn) == [["student", "90.00 %", "1"]]


def test_says_which_run_where_there_are_two_and_nothing_without_seeds(records_of, write_run):
    one = write_run(records_of("teacher"), name="one", summary={"seeds": SEEDS})
    two = write_run(records_of("teacher"), name="two", summary={})
    drawn = comparison([one, two])
    assert next(row[0] for row in seed_rows(drawn)) == "one: student"
    assert seed_rows(comparison([two])) == []
    assert "Over seeds" not in render(comparison([two]), "markdown")
