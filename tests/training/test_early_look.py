from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.training.early_look import EarlyLook, Looking, Seen


def follow(model, look, *, steps=10, until=10, state=None):
    """Return what follows a training in which each step adds 1 to the weights."""
    asked = []

    def right():
        asked.append(model.weight.mean().item())
        return np.array([True, False, True])

    looking = Looking(look, model, steps=steps, score=right)
    if state is not None:
        looking.load_state_dict(state)
    for step in range(looking.average.step, until):
        with torch.no_grad():
            model.weight += 1
        looking.after_step(step)
        if looking.is_over:
            break
    return looking, asked


def model_of_zeros():
    model = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(model.weight)
    return model


def test_looks_once_at_the_average_and_leaves_the_weights():
    model = model_of_zeros()
    looking, asked = follow(model, EarlyLook(fraction=0.4))
    assert looking.seen.scores.tolist() == [True, False, True]
    assert (looking.seen.after_steps, looking.seen.of_steps) == (4, 10)
    (at,) = asked
    assert 2 < at < 4
    assert model.weight.mean() == 10
    assert not looking.is_over


def test_a_training_may_end_there():
    model = model_of_zeros()
    looking, _ = follow(model, EarlyLook(fraction=0.0, fewest_steps=4, ends=True))
    assert looking.is_over
    assert model.weight.mean() == 4


def test_a_training_that_is_shorter_is_looked_at_last():
    looking, _ = follow(
        model_of_zeros(), EarlyLook(fraction=0.1, fewest_steps=40), steps=3, until=3
    )
    assert looking.seen.after_steps == 3


def test_an_interrupted_training_sees_the_same():
    whole, asked = follow(model_of_zeros(), EarlyLook(fraction=0.6))
    model = model_of_zeros()
    first, _ = follow(model, EarlyLook(fraction=0.6), until=3)
    second, again = follow(model, EarlyLook(fraction=0.6), state=first.state_dict())
    assert again == asked
    third, none = follow(model, EarlyLook(fraction=0.6), until=0, state=second.state_dict())
    assert not none
    assert third.seen.to_dict() == whole.seen.to_dict()


@pytest.mark.parametrize("of", [lambda drawn: drawn > 0.3, lambda drawn: drawn])
def test_what_was_seen_is_plain_json(of):
    scores = of(np.random.default_rng(0).random(45))
    seen = Seen(after_steps=3, of_steps=30, scores=scores)
    again = Seen.from_dict(json.loads(json.dumps(seen.to_dict())))
    np.testing.assert_array_equal(again.scores, scores)
    assert again.scores.dtype == scores.dtype
    assert (again.after_steps, again.of_steps) == (3, 30)
