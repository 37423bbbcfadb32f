"""The table of rules: what is advised follows from what was measured, and can be run."""

from __future__ import annotations

import pytest

from kdeploy.advise.facts import ModelFacts
from kdeploy.advise.measured import Measured, Variant
from kdeploy.advise.rules import RULES, Situation
from kdeploy.advise.run import ranked
from kdeploy.advise.targets import Needs, fit, needs_of
from kdeploy.gate import parse_gates
from kdeploy.recipe.resolve import parse

STUDENTS = {
    name: {"build": "build.py:net", "args": {"width": width}}
    for name, width in (("half", 8), ("quarter", 4))
}


def situation(*, int8=0.5, students=STUDENTS, items=1000, half=0.4, facts=True):
    right = (True,) * 180 + (False,) * 20
    variants = {
        "float": Variant(seconds=1e-3, size=400_000, parameters=100_000, right=right),
        "int8": Variant(seconds=int8 * 1e-3, size=110_000, parameters=100_000, right=right),
        "half_width": Variant(seconds=half * 1e-3, size=100_000, parameters=25_000),
        **{
            name: Variant(seconds=share * 1e-3, size=int(share * 4e5), parameters=int(share * 1e5))
            for name, share in (("half", 0.25), ("quarter", 0.08))
            if name in students
        },
    }
    known = ModelFacts(
        parameters=100_000, macs=10**6, num_layers=9, narrowest=16, widest=64, memory_bound=0.1
    )
    return Situation(
        facts=known if facts else None,
        measured=Measured(variants=variants),
        students=students,
        validation_items=items,
    )


def names(here, *targets):
    needs = needs_of(parse_gates(targets), here.measured)
    return [rule.name for rule, _, _ in ranked(here, needs)]


def test_a_size_of_a_quarter_is_quantized_first():
    assert names(situation(), "size: 3.5x", "accuracy.top1: -0.5pp")[0] == "int8"


def test_a_large_speed_up_is_a_student():
    assert names(situation(int8=1.1), "latency.p50: 8x", "accuracy.top1: -4pp")[0].startswith(
        "student"
    )


def test_a_mean_latency_at_no_loss_is_a_cascade_and_a_p99_never():
    here = situation(int8=0.95)
    wanted = ["accuracy.top1: -0.5pp"]
    assert names(here, "latency.mean: 1.6x", *wanted)[0] == "cascade"
    needs = needs_of(parse_gates(["latency.p99: 1.6x", *wanted]), here.measured)
    promises = {rule.name: promise for rule, _, promise in ranked(here, needs)}
    assert promises["cascade"] == 0


def test_int8_that_is_no_faster_is_left_out_of_what_is_pruned_or_distilled():
    pays, does_not = situation(int8=0.5), situation(int8=1.0)
    for rule in RULES:
        if rule.name not in ("int8", "cascade"):
            steps = [list(rule.recipe(h).get("compress", [])) for h in (pays, does_not)]
            assert "int8_ptq" in str(steps[0])
            assert "int8_ptq" not in str(steps[1])


def test_without_students_none_is_advised():
    found = names(situation(students={}))
    assert {"int8", "prune_half", "prune_quarter"} == set(found)


def test_few_validation_items_rule_a_cascade_out():
    assert "cascade" not in names(situation(items=574))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_recipe_is_one_that_kdeploy_reads(rule, tmp_path, tiny_build):
    base = {
        "data": {"name": "digits"},
        "teacher": {"build": "build.py:net", "train": {"epochs": 0}},
        "package": {},
    }
    recipe = parse({**base, **rule.recipe(situation())}, folder=tmp_path)
    assert recipe.compress or recipe.student is not None


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_sentence_says_where_it_is_from(rule):
    sentences = rule.why(situation())
    assert sentences
    for sentence in sentences:
        assert sentence.source == "measured here" or sentence.where


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_range_runs_from_low_to_high(rule):
    for here in (situation(), situation(int8=1.2)):
        expected = rule.expected(here)
        for low, high in (expected.speed_up, expected.smaller, expected.lost):
            assert low <= high


def test_targets_are_ratios_to_what_was_measured():
    here = situation().measured
    needs = needs_of(parse_gates(["latency.p50: <= 250us", "size: <= 100KB"]), here)
    assert needs.latency == pytest.approx(4)
    assert needs.size == pytest.approx(4)
    assert needs.lost == 0.01
    assert needs_of(parse_gates(["latency.mean: <= 2ms"]), here).latency is None


def test_the_promise_is_the_share_of_the_ranges_that_meets_all():
    expected = next(r for r in RULES if r.name == "int8").expected(situation())
    low, high = expected.speed_up
    assert fit(expected, Needs(latency=(low + high) / 2))[0] == pytest.approx(0.5, abs=0.01)
    assert fit(expected, Needs(latency=high * 1.01))[0] == 0
    assert fit(expected, Needs(latency=low * 0.99))[0] == pytest.approx(1)
