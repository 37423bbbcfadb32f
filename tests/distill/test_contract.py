"""What a scheme may use: further models under seeds of their own, numbers for the record."""

from __future__ import annotations

import pytest

from kdeploy.distill.contract import SchemeContext
from kdeploy.distill.schedules import Constant
from kdeploy.errors import ModelError
from kdeploy.training.fit import FitContext, accuracy

ENTRY = {"build": "other", "args": {}, "weights": None}


@pytest.fixture
def context_of(tiny_data):
    """Return a function that makes the context of a scheme."""

    def make(seed=3, **options):
        fitting = FitContext(seed=seed, device="cpu")
        weight = Constant(value=0.1)
        return SchemeContext(
            data=tiny_data, fit=fitting, training={}, label_weight=weight, **options
        )

    return make


def test_a_further_model_is_built_under_the_seed_of_its_place(context_of, tiny_model):
    seeds = []
    context = context_of(build=lambda entry, seed: seeds.append(seed) or tiny_model())
    for place in (0, 1, 0):
        context.model(ENTRY, place)
    assert seeds[0] == seeds[2] == context.seed_of(0)
    others = {3, *seeds, *(context_of(seed=4).seed_of(place) for place in (0, 1))}
    assert len(others) == 5


def test_refuses_a_further_model_that_does_not_fit_the_data(context_of, tiny_model):
    context = context_of(build=lambda entry, seed: tiny_model(classes=5))
    with pytest.raises(ModelError, match="`other` has 5 classes"):
        context.model(ENTRY, 0)


def test_refuses_a_further_model_that_is_to_learn_and_cannot(context_of, tiny_model):
    context = context_of(build=lambda entry, seed: tiny_model().requires_grad_(False))
    assert context.model(ENTRY, 0)
    with pytest.raises(ModelError, match="`other` is to learn"):
        context.model(ENTRY, 0, learns=True)


def test_says_what_to_do_where_nobody_can_build(context_of):
    with pytest.raises(ModelError, match="nothing here can build `other`") as caught:
        context_of().model(ENTRY, 0)
    assert "build=" in caught.value.hint


def test_keeps_the_accuracy_on_the_validation_part_by_name(context_of, tiny_model, tiny_data):
    context = context_of()
    found = context.record("peer", tiny_model())
    assert found == accuracy(tiny_model(), tiny_data.validation, tiny_data.preprocessing)
    assert context.accuracies == {"peer": found}
