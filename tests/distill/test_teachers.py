"""Several teachers as one: the mean of their probabilities, or one of them at random."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from kdeploy.distill.teacher import Teacher
from kdeploy.distill.teacher_protocol import TeacherOutput, TeacherProtocol
from kdeploy.distill.teachers import Ensemble, log_of_mean
from kdeploy.errors import ModelError
from kdeploy.training.contract import Batch

BATCH = Batch(x=torch.rand(3, 1, 12, 12), labels=torch.zeros(3).long(), rows=torch.arange(3))


class Saying:
    """A signal that says one thing, and counts how often it is asked."""

    models = ()
    is_repeatable = True

    def __init__(self, logits):
        self.logits = torch.tensor(logits)
        self.fingerprint = str(logits)
        self.asked = 0
        self.paths = ()

    def __call__(self, batch, paths):
        self.asked += 1
        self.paths = paths
        return TeacherOutput(self.logits, dict.fromkeys(paths, self.logits))

    def run_on(self, batch, features): ...

    def prepare(self, view, paths):
        self.paths = paths

    def compile(self): ...

    def apply(self, function, *, recurse):
        self.logits = function(self.logits)


@pytest.fixture
def members():
    return [Saying([[2.0, 0.0, -1.0]]), Saying([[0.0, 3.0, 0.5]])]


def test_its_logits_are_the_logarithm_of_the_mean_probability(members):
    said = Ensemble(members, [0.75, 0.25])(BATCH, ()).logits
    probabilities = [softmax(m.logits.numpy(), axis=1) for m in members]
    expected = np.log(0.75 * probabilities[0] + 0.25 * probabilities[1])
    np.testing.assert_allclose(said.numpy(), expected, rtol=1e-6)


def test_one_member_says_what_it_says(members):
    said = Ensemble(members[:1], [1.0])(BATCH, ()).logits
    np.testing.assert_allclose(said, log_softmax(members[0].logits.numpy(), axis=1), rtol=1e-6)


def test_the_mean_is_over_the_classes_of_each_token():
    logits = [torch.randn(2, 5, 3) for _ in range(2)]
    said = log_of_mean(logits, [0.5, 0.5])
    torch.testing.assert_close(said[:, 2], log_of_mean([one[:, 2] for one in logits], [0.5, 0.5]))


def test_its_features_are_those_of_the_first_member(members):
    asked = Ensemble(members, [0.5, 0.5])(BATCH, ("blocks",))
    assert torch.equal(asked.features["blocks"], members[0].logits)
    assert members[1].paths == ()


def test_a_random_member_answers_alone_and_follows_the_seed(members):
    ensemble = Ensemble(members, [0.5, 0.5], how="random")
    assert not ensemble.is_repeatable
    orders = []
    for _ in range(2):
        torch.manual_seed(3)
        orders.append([ensemble(BATCH, ()).logits[0, 0].item() for _ in range(20)])
    assert orders[0] == orders[1]
    assert set(orders[0]) == {2.0, 0.0}
    assert sum(m.asked for m in members) == 40


def test_a_random_member_has_no_features(members):
    with pytest.raises(ModelError, match="no features") as caught:
        Ensemble(members, [0.5, 0.5], how="random")(BATCH, ("blocks",))
    assert "mean" in caught.value.hint


def test_tells_every_member_of_a_view_and_moves_all(members):
    ensemble = Ensemble(members, [0.5, 0.5])
    ensemble.prepare(None, ("blocks",))
    assert [m.paths for m in members] == [("blocks",), ()]
    ensemble.apply(lambda t: t.double(), recurse=True)
    assert {m.logits.dtype for m in members} == {torch.float64}


def test_is_another_with_other_members_weights_or_ways(members, tiny_model):
    kinds = [
        Ensemble(members, [0.5, 0.5]),
        Ensemble(members, [0.25, 0.75]),
        Ensemble(members[::-1], [0.5, 0.5]),
        Ensemble(members, [0.5, 0.5], how="random"),
        Ensemble([*members, Teacher(tiny_model())], [0.25, 0.25, 0.5]),
    ]
    assert len({kind.fingerprint for kind in kinds}) == len(kinds)
    assert all(isinstance(kind, TeacherProtocol) for kind in kinds)
