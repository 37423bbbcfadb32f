"""Generations: each learns from the one before, and the best is returned."""

from __future__ import annotations

from copy import deepcopy

import pytest
from torch import nn

from kdeploy.errors import UnknownName
from kdeploy.training.fit import FitContext, NullCallback

HINTS = {"hints": {"layers": {"blocks.1": "blocks.1"}, "weight": 0.1}}


class Naming(NullCallback):
    def __init__(self):
        self.names = []

    def started(self, name, epochs, steps, done_epochs):
        self.names.append((name, done_epochs))


def test_returns_the_best_generation_with_its_own_history(learn):
    callback = Naming()
    context = FitContext(seed=4, name="distil", callback=callback)
    result = learn("generations", context=context, count=3)
    assert callback.names == [(f"distil: generation-{k}", 0) for k in (1, 2, 3)]
    assert list(result.accuracies) == ["generation 1", "generation 2", "generation 3"]
    assert result.fit.best_accuracy == max(result.accuracies.values())


def test_the_second_starts_anew_and_learns_from_the_first(learn, same):
    assert not same(learn("generations", count=1).model, learn("generations", epochs=1).model)
    one = learn("generations", count=1)
    assert same(one.model, learn("offline").model)


def test_measures_all_generations_together_when_asked(learn):
    accuracies = learn("generations", ensemble_of_generations=True).accuracies
    assert list(accuracies)[-1] == "the generations together"
    assert 0 <= accuracies["the generations together"] <= 1


@pytest.mark.parametrize("after", [1, 3])
def test_goes_on_after_a_kill_in_any_generation(after, learn, same, killed_and_resumed):
    undisturbed = learn("generations", losses=[{"kd": {}}, HINTS])
    resumed = killed_and_resumed("generations", after, losses=[{"kd": {}}, HINTS])
    assert same(undisturbed.model, resumed.model)
    assert undisturbed.accuracies == resumed.accuracies


def test_refuses_layers_that_only_the_teacher_has_before_any_work(learn, teacher, tmp_path):
    other = deepcopy(teacher)
    other.blocks[1] = nn.Sequential(other.blocks[1])
    hints = {"hints": {"layers": {"blocks.1": "blocks.1.0"}}}
    with pytest.raises(UnknownName, match=r"blocks\.1\.0"):
        learn("generations", teacher=other, losses=[hints], context=FitContext(work=tmp_path))
    assert not list(tmp_path.iterdir())
