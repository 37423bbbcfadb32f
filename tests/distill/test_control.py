"""The sentence on the teacher: right where the answer is planted, honest where it is not known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdeploy.distill.control import effect_of, too_weak


def outcomes(only_student, only_control, *, both=600, neither=100):
    counts = [both, only_student, only_control, neither]
    student = np.repeat([True, True, False, False], counts)
    control = np.repeat([True, False, True, False], counts)
    return student, control


def effect(only_student, only_control, *, after_steps=50, **options):
    known = {"after_steps": after_steps, "of_steps": 500, "teacher_accuracy": 0.9, **options}
    return effect_of(*outcomes(only_student, only_control), **known)


def test_a_teacher_that_helped():
    found = effect(80, 20)
    assert found.verdict == "helped"
    assert found.sentence.startswith("the teacher helped by +7.5 pp (+5.")
    assert "800 validation items, after 50 of 500 steps" in found.sentence


@pytest.mark.parametrize(("only_student", "only_control"), [(50, 50), (58, 45), (0, 0), (3, 1)])
def test_what_may_be_chance_is_no_difference(only_student, only_control):
    found = effect(only_student, only_control)
    assert found.verdict == "no difference"
    assert "`distill.baseline: true` compares both at the end" in found.sentence


def test_what_was_trained_to_the_end_asks_for_nothing_more():
    found = effect(50, 50, after_steps=500)
    assert found.sentence.endswith("800 validation items, trained to the end)")


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"teacher_accuracy": 0.6}, "right on 60.0% of them, the student without it on 85.0%"),
        ({"are_weights_given": True}, "leave `weight` and `label_weight` out"),
        ({"reads_labels": False}, "leave `scheme: unlabelled` out"),
        ({}, "lower its part"),
    ],
)
def test_a_teacher_that_hurt_comes_with_what_to_do(options, remedy):
    found = effect(20, 80, **options)
    assert found.verdict == "hurt"
    assert found.sentence.startswith("the teacher hurt by -7.5 pp")
    assert remedy in found.sentence


def scored(apart, **options):
    """Return the effect where items of two students are so far apart, of R2."""
    control = np.linspace(0.2, 0.9, len(apart))
    known = {"after_steps": 50, "of_steps": 500, "teacher_accuracy": 0.1, "scores": "R2"}
    return effect_of(control + apart, control, **{**known, **options})


def test_scores_that_are_no_shares_of_items_are_named():
    drawn = np.random.default_rng(0).normal(size=200)
    found = scored(0.05 + 0.1 * drawn)
    assert found.verdict == "helped"
    assert found.sentence.startswith("the teacher helped by +5.")
    assert "pp of R2 (" in found.sentence
    assert scored(0.1 * (drawn - drawn.mean())).verdict == "no difference"


def test_what_hurt_is_not_put_down_to_a_score_of_another_kind():
    found = scored(-0.05 + 0.01 * np.random.default_rng(0).normal(size=50))
    assert found.verdict == "hurt"
    assert "lower its part" in found.sentence


def test_it_is_plain_json():
    found = json.loads(json.dumps(effect(80, 20).to_dict()))
    assert (found["verdict"], found["difference"]["n"]) == ("helped", 800)
    assert found["sentence"].startswith("the teacher helped")


@pytest.mark.parametrize(("right", "is_weak"), [(0.5, True), (0.52, True), (0.75, False)])
def test_a_teacher_like_the_commonest_class_is_too_weak(right, is_weak):
    labels = np.array([0] * 100 + [1] * 60 + [2] * 40)
    said = too_weak(right, labels)
    assert (said is not None) == is_weak
    assert said is None or "the commonest class alone would be on 50.0%" in said


def test_without_labels_nobody_is_weak():
    assert too_weak(float("nan"), np.zeros(0, np.int64)) is None
