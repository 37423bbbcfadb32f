"""Ensemble: the student learns from several teachers."""

from __future__ import annotations

import logging

import pytest

from kdeploy.errors import ModelError, RecipeError
from kdeploy.training.fit import FitContext, accuracy
from tests.distill.schemes.warnings_of_schemes import said_of_schemes

OTHER = {"build": "other"}
HINTS = {"hints": {"layers": {"blocks.1": "blocks.1"}, "weight": 0.1}}


@pytest.fixture(scope="module")
def other(trained):
    return {"other": trained(seed=5, width=8)}


def test_records_how_good_each_further_teacher_is(learn, other, tiny_data):
    result = learn("ensemble", built=other, teachers=[OTHER])
    expected = accuracy(other["other"], tiny_data.validation, tiny_data.preprocessing)
    assert result.accuracies == {"teachers[0]": expected}


def test_the_further_teacher_and_its_weight_change_the_student(learn, other, same):
    alone = learn("ensemble").model
    both = learn("ensemble", built=other, teachers=[OTHER]).model
    unequal = learn("ensemble", built=other, teachers=[OTHER], how="weights", weights=[9, 1]).model
    assert not same(alone, both)
    assert not same(both, unequal)


def test_equal_weights_are_the_mean(learn, other, same):
    mean = learn("ensemble", built=other, teachers=[OTHER]).model
    equal = learn("ensemble", built=other, teachers=[OTHER], how="weights", weights=[3, 3]).model
    assert same(mean, equal)


def test_what_each_teacher_said_is_kept_on_its_own(learn, other, tmp_path):
    context = FitContext(seed=4, cache=tmp_path)
    learn("ensemble", built=other, context=context, teachers=[OTHER])
    kept = set(tmp_path.iterdir())
    assert len(kept) == 2
    learn("ensemble", built=other, context=context, teachers=[OTHER], how="random")
    assert set(tmp_path.iterdir()) == kept


def test_random_teachers_are_drawn_alike_after_a_kill(learn, other, same, killed_and_resumed):
    options = {"built": other, "teachers": [OTHER], "how": "random", "epochs": 3}
    undisturbed = learn("ensemble", **options)
    assert same(undisturbed.model, killed_and_resumed("ensemble", 1, **options).model)


def test_refuses_random_teachers_with_losses_on_features(learn, other):
    with pytest.raises(ModelError, match="no features"):
        learn("ensemble", built=other, teachers=[OTHER], how="random", losses=[HINTS])


def test_refuses_weights_that_are_not_one_a_teacher(learn, other):
    with pytest.raises(RecipeError, match="2 teachers and 1 `weights`"):
        learn("ensemble", built=other, teachers=[OTHER], how="weights", weights=[1])


def test_warns_of_a_teacher_that_was_never_trained(learn, other, tiny_model, caplog):
    built = {**other, "fresh": tiny_model(seed=6)}
    teachers = [OTHER, {"build": "fresh"}]
    with caplog.at_level(logging.WARNING):
        learn("ensemble", built=built, teachers=teachers, epochs=0)
    assert [record.args[0] for record in said_of_schemes(caplog)] == ["teachers[1]"]


def test_warns_of_weights_without_effect(learn, caplog):
    with caplog.at_level(logging.WARNING):
        learn("ensemble", weights=[1.0], epochs=0)
    assert "no effect" in caplog.text
