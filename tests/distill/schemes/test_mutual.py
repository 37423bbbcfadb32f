"""Mutual learning: students learn the labels and what the other students say."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from kdeploy.distill.divergence import divergence
from kdeploy.distill.schemes.mutual import MutualObjective
from kdeploy.training.contract import Batch, ObjectiveHooks
from kdeploy.training.fit import accuracy
from tests.tiny.text import Next, sequences

PEER = {"build": "peer"}


@pytest.fixture
def batch():
    return Batch(x=torch.randn(6, 5), labels=torch.arange(6) % 3, rows=torch.arange(6))


def test_is_the_formula_for_three_students(batch):
    students = [nn.Linear(5, 3) for _ in range(3)]
    found = MutualObjective(students, temperature=2.0, weight=0.5)(batch)
    logits = [student(batch.x).detach().double().numpy() for student in students]
    for place, own in enumerate(logits):
        labels = -log_softmax(own, axis=1)[range(6), batch.labels.numpy()].mean()
        others = [other for i, other in enumerate(logits) if i != place]
        apart = [
            (softmax(o / 2, axis=1) * (log_softmax(o / 2, axis=1) - log_softmax(own / 2, axis=1)))
            .sum(axis=1)
            .mean()
            for o in others
        ]
        name = f"peers[{place - 1}]." if place else ""
        np.testing.assert_allclose(found[f"{name}labels"].item(), labels, rtol=1e-5)
        expected = 0.5 * 4 * np.mean(apart)
        np.testing.assert_allclose(found[f"{name}mutual"].item(), expected, rtol=1e-5)


def test_a_student_gets_no_gradient_from_what_it_teaches(batch):
    students = [nn.Linear(5, 3) for _ in range(2)]
    MutualObjective(students, temperature=1.0, weight=1.0)(batch)["mutual"].backward()
    assert students[0].weight.grad is not None
    assert students[1].weight.grad is None


def test_is_an_objective_of_which_every_setting_counts(batch):
    students = [nn.Linear(5, 3) for _ in range(2)]
    made = [MutualObjective(students, temperature=t, weight=w) for t, w in ((1, 1), (2, 1), (1, 2))]
    assert len({objective.fingerprint for objective in made}) == 3
    assert isinstance(made[0], ObjectiveHooks)


def test_peers_of_other_builds_learn_too_and_are_recorded(learn, tiny_model, tiny_data):
    peer = tiny_model(seed=9, width=8)
    result = learn("mutual", built={"peer": peer}, peers=[PEER, PEER], epochs=3)
    before = accuracy(peer, tiny_data.validation, tiny_data.preprocessing)
    assert list(result.accuracies) == ["peers[0]", "peers[1]"]
    assert min(result.accuracies.values()) > before
    assert len(result.fit.history[0].losses) == 6


def test_without_peers_there_is_a_second_student_of_the_same_build(learn, caplog):
    with caplog.at_level(logging.WARNING):
        result = learn("mutual")
    assert list(result.accuracies) == ["peers[0]"]
    assert list(result.fit.history[0].losses) == [
        "labels", "mutual", "peers[0].labels", "peers[0].mutual",
    ]  # fmt: skip
    assert "`losses` and `label_weight` have no effect" in caplog.text


def test_goes_on_after_a_kill_with_all_students(learn, same, killed_and_resumed):
    undisturbed = learn("mutual", epochs=3)
    resumed = killed_and_resumed("mutual", 1, epochs=3)
    assert same(undisturbed.model, resumed.model)
    assert undisturbed.accuracies == resumed.accuracies


def test_of_tokens_only_those_that_count_are_learned():
    torch.manual_seed(0)
    data, students = sequences(), [Next(), Next()]
    x, labels = (torch.from_numpy(a[:4]).long() for a in (data.train.x, data.train.y))
    found = MutualObjective(students, temperature=2.0, weight=1.0)(
        Batch(x=x, labels=labels, rows=torch.arange(4))
    )
    own, other = (s(x)[labels >= 0] for s in students)
    expected = 4 * divergence(own, other, temperature=2.0)
    torch.testing.assert_close(found["mutual"], expected)
    torch.testing.assert_close(
        found["labels"], torch.nn.functional.cross_entropy(own, labels[labels >= 0])
    )
