"""The section `dynamic:`: one kind, and what it may cost."""

from __future__ import annotations

import pytest

from kdeploy.errors import KdeployError, RecipeError, UnknownName
from kdeploy.recipe.dynamic import dynamic_step
from kdeploy.recipe.schema import json_schema


def test_a_list_is_what_it_is_made_of():
    step = dynamic_step({"cascade": ["small", "large"], "risk": "1pp", "confidence": 0.95})
    assert step.names == ("small", "large")
    assert (step.promise.risk, step.promise.confidence) == (0.01, 0.95)
    assert dynamic_step({"cascade": {"parts": ["small", "large"]}}).names == step.names


def test_what_is_left_out_is_half_a_point_with_nine_tenths():
    promise = dynamic_step({"cascade": None}).promise
    assert (promise.risk, promise.confidence) == (0.005, 0.9)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, RecipeError),
        ({"risk": "1pp"}, RecipeError),
        ({"cascad": ["a", "b"]}, UnknownName),
        ({"cascade": ["a", "b"], "risk": "0pp"}, RecipeError),
        ({"cascade": ["a", "b"], "risk": "5ms"}, RecipeError),
        ({"cascade": ["a", "b"], "confidence": 1.0}, RecipeError),
        ({"cascade": {"part": ["a", "b"]}}, UnknownName),
        (["cascade"], RecipeError),
    ],
)
def test_what_cannot_be_is_refused_with_a_hint(given, kind):
    with pytest.raises(kind) as caught:
        dynamic_step(given)
    assert isinstance(caught.value, KdeployError)
    assert caught.value.hint


def test_the_schema_knows_it():
    assert "cascade" in str(json_schema()["$defs"]["dynamic_cascade"])
