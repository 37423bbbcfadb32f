"""One training of a network out of which smaller ones can be cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from kdeploy.distill.schemes.elastic import ElasticObjective
from kdeploy.errors import ModelError
from kdeploy.torch_module.nested import cut_out
from kdeploy.training.contract import Batch, ObjectiveHooks
from kdeploy.training.fit import Supervised, accuracy
from kdeploy.training.remeasured_norms import remeasure_norms

SIZES = [{"build": "two", "args": {"width": 2}}, {"build": "three", "args": {"width": 3}}]


def net(width):
    return nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))


def objective(**changed):
    torch.manual_seed(0)
    settings = {"drawn": 1, "weight": 0.5, "temperature": 2.0, "seed": 0, **changed}
    smaller = [net(width) for width in (4, 2, 6)]
    return ElasticObjective(Supervised(net(8)), smaller, **settings)


def batch(step=0):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 5, generator=generator)
    return Batch(x=x, labels=torch.arange(6) % 3, rows=torch.arange(6), step=step)


def test_is_the_formula():
    made, given = objective(), batch()
    found = made(given)
    largest = made.student(given.x).detach().double().numpy()
    expected = 0.0
    for size in made.chosen(0):
        alone = net(size[0].out_features).train()
        cut_out(alone, made.student)
        own = alone(given.x).detach().double().numpy()
        apart = log_softmax(largest / 2, axis=1) - log_softmax(own / 2, axis=1)
        expected += 0.5 * 4 * (softmax(largest / 2, axis=1) * apart).sum(1).mean()
    assert list(found) == ["labels", "sizes"]
    np.testing.assert_allclose(found["sizes"].item(), expected, rtol=1e-4)


def test_the_smallest_learns_in_each_step_and_others_by_turns():
    made = objective()
    widths = [[m[0].out_features for m in made.chosen(step)] for step in range(20)]
    assert {first for first, _ in widths} == {2}
    assert {second for _, second in widths} == {4, 6}
    assert [m[0].out_features for m in made.chosen(-1)] == [2, 4, 6]
    assert widths == [[m[0].out_features for m in objective().chosen(step)] for step in range(20)]


def test_small_ones_teach_the_first_rows_and_change_no_statistics_of_the_largest():
    made, given = objective(drawn=0), batch()
    made(given)
    made(given)["sizes"].backward()
    gradient = made.student[0].weight.grad
    assert gradient[:2].any()
    assert not gradient[2:].any()
    # Twice through the largest, not more often through the small ones.
    assert made.student[1].num_batches_tracked == 2
    assert not [name for name in made.state_dict() if name.startswith("smaller")]


def test_is_an_objective_of_which_every_setting_counts():
    made = [objective(), objective(drawn=2), objective(weight=1.0), objective(temperature=1.0)]
    assert len({one.fingerprint for one in made}) == 4
    assert isinstance(made[0], ObjectiveHooks)


def test_sizes_learn_and_their_accuracies_are_those_of_the_networks_cut_out(
    learn, tiny_model, tiny_data
):
    built = {name: tiny_model(width=width) for name, width in (("two", 2), ("three", 3))}
    result = learn("elastic", sizes=SIZES, built=built, epochs=3)
    assert list(result.accuracies) == ["size width 2", "size width 3"]
    assert all(epoch.losses["sizes"] > 0 for epoch in result.fit.history)
    small = tiny_model(width=3)
    cut_out(small, result.model)
    remeasure_norms(small, tiny_data)
    found = accuracy(small, tiny_data.validation, tiny_data.preprocessing)
    assert result.accuracies["size width 3"] == found


def test_a_size_that_is_not_inside_the_student_is_refused(learn, tiny_model):
    with pytest.raises(ModelError, match="the size width 8 is not inside the student"):
        learn(
            "elastic",
            sizes=[{"build": "eight", "args": {"width": 8}}],
            built={"eight": tiny_model(width=8)},
        )
