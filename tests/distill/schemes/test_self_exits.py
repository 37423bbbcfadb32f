"""Exits that learn from the labels and from the student's own last layer."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from kdeploy.distill.config import DistillConfig
from kdeploy.distill.exits import Exits, attach_exits
from kdeploy.distill.run import distill
from kdeploy.distill.schemes.self_exits import ExitObjective
from kdeploy.errors import ModelError, UnknownName
from kdeploy.training.contract import Batch, ObjectiveHooks
from kdeploy.training.fit import FitContext, Supervised, accuracy
from tests.tiny.text import Next, sequences

EXITS = ["blocks.0", "blocks.1"]


@pytest.fixture
def objective():
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3))
    attach_exits(model, ["0"], torch.randn(2, 5), num_classes=3)
    return ExitObjective(Supervised(model), {"labels": 0.7, "deepest": 0.3}, temperature=3.0)


def test_is_the_formula(objective):
    batch = Batch(x=torch.randn(6, 5), labels=torch.arange(6) % 3, rows=torch.arange(6))
    found = objective(batch)
    own, last = (e.detach().double().numpy() for e in Exits(objective.student).exits(batch.x))
    labels = -log_softmax(own, axis=1)[range(6), batch.labels.numpy()].mean()
    apart = log_softmax(last / 3, axis=1) - log_softmax(own / 3, axis=1)
    deepest = 9 * (softmax(last / 3, axis=1) * apart).sum(1).mean()
    assert list(found) == ["labels", "exit 0: labels", "exit 0: deepest"]
    np.testing.assert_allclose(found["exit 0: labels"].item(), 0.7 * labels, rtol=1e-5)
    np.testing.assert_allclose(found["exit 0: deepest"].item(), 0.3 * deepest, rtol=1e-5)


def test_the_last_layer_does_not_learn_from_an_exit(objective):
    batch = Batch(x=torch.randn(6, 5), labels=torch.arange(6) % 3, rows=torch.arange(6))
    objective(batch)["exit 0: deepest"].backward()
    assert objective.student[1].weight.grad is None
    assert objective.student[0].weight.grad is not None


def test_is_an_objective_of_which_every_setting_counts(objective):
    inner = objective.inner
    made = [
        objective,
        ExitObjective(inner, {"labels": 0.7, "deepest": 0.3}, temperature=2.0),
        ExitObjective(inner, {"labels": 0.7, "deepest": 0.2}, temperature=3.0),
    ]
    assert len({one.fingerprint for one in made}) == 3
    assert isinstance(objective, ObjectiveHooks)


def test_the_exits_learn_and_their_accuracies_are_recorded(learn, tiny_data):
    result = learn("self_exits", exits=EXITS, epochs=4)
    assert list(result.accuracies) == ["exit blocks.0", "exit blocks.1"]
    history = result.fit.history
    assert history[-1].losses["exit blocks.1: labels"] < history[0].losses["exit blocks.1: labels"]
    assert "kd" in history[0].losses
    last = accuracy(result.model, tiny_data.validation, tiny_data.preprocessing)
    assert last == result.fit.best_accuracy


def test_a_weight_of_zero_leaves_the_component_out(learn):
    losses = learn("self_exits", exits=EXITS[:1], deepest_weight=0).fit.history[0].losses
    assert [name for name in losses if "exit" in name] == ["exit blocks.0: labels"]


def test_goes_on_after_a_kill_with_heads_and_all(learn, same, killed_and_resumed):
    undisturbed = learn("self_exits", exits=EXITS, epochs=3)
    assert same(undisturbed.model, killed_and_resumed("self_exits", 1, exits=EXITS, epochs=3).model)


def test_without_exits_it_is_plain_distillation_and_that_is_said(learn, same, caplog):
    with caplog.at_level(logging.WARNING):
        plain = learn("self_exits")
    assert same(plain.model, learn("offline").model)
    assert "no `exits`" in caplog.text


def test_refuses_a_layer_that_is_not_there(learn):
    with pytest.raises(UnknownName, match=r"blocks\.9"):
        learn("self_exits", exits=["blocks.9"], context=FitContext())


def test_refuses_labels_of_tokens():
    with pytest.raises(ModelError, match="of its tokens"):
        distill(
            Next(),
            Next(),
            sequences(),
            FitContext(),
            DistillConfig(scheme={"self_exits": {"exits": ["words"]}}),
        )
