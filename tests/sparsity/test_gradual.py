"""Zeros that become more and more."""

from __future__ import annotations

import pytest
import torch

from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.sparsity.choice import WeightRanking
from kdeploy.sparsity.gradual import GradualZeros, sparsity_at
from kdeploy.sparsity.zeros import sparsity
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, Supervised, fit

QUICK = {"batch_size": 16, "learning_rate": 0.05, "precision": "fp32"}
NAMES = ("blocks.0.conv1.weight", "blocks.1.conv2.weight", "head.weight")


def test_the_schedule_is_cubic():
    assert [sparsity_at(t, 0.8) for t in (0, 0.5, 1)] == pytest.approx([0, 0.8 * 7 / 8, 0.8])


def make_zeros(**options):
    return GradualZeros(NAMES, choice=WeightRanking(), sparsity=0.8, reached_at=0.5, **options)


def zeros_in(model):
    weights = [model.get_parameter(name) for name in NAMES]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


class Counting:
    """A constraint after another one, which writes down how many zeros there are."""

    fingerprint = "counting"

    def __init__(self):
        self.seen = []

    def begin(self, model):
        self.model = model

    def after_step(self, progress, learning_rate):
        self.seen.append((progress, zeros_in(self.model)))


class Interrupted:
    """A callback that stops the training after its first epoch."""

    def __getattr__(self, name):
        return lambda *_: None

    def epoch_ended(self, record):
        raise KeyboardInterrupt


def test_zeros_follow_the_schedule_to_the_asked_part_of_the_training(tiny_model, tiny_data):
    model, counting = tiny_model(), Counting()
    context = FitContext(constraints=(make_zeros(), counting))
    fit(Supervised(model), tiny_data, context, TrainingConfig(epochs=2, keep="last", **QUICK))
    for progress, found in counting.seen:
        expected = sparsity_at(min(progress / 0.5, 1), 0.8)
        # A hundred updates: one of them is 3 % of the whole at most.
        assert found == pytest.approx(expected, abs=0.03 * 0.8)
    assert zeros_in(model) == pytest.approx(0.8, abs=1e-3)
    assert 0 < sparsity(model) < 0.8, "other layers are as they were"


def test_what_was_zero_stays_zero():
    model = torch.nn.Sequential(torch.nn.Linear(10, 10))
    zeros = GradualZeros(["0.weight"], choice=WeightRanking(), sparsity=0.5, reached_at=1.0)
    zeros.begin(model)
    before = torch.zeros(10, 10, dtype=torch.bool)
    for step in range(1, 21):
        model[0].weight.data += 0.3 * torch.randn(10, 10)
        zeros.after_step(step / 20, 0.1)
        now = model[0].weight == 0
        assert (before <= now).all()
        before = now
    assert before.sum() == 50


@pytest.mark.parametrize("ema", [None, 0.9])
def test_an_interrupted_training_ends_in_the_same_weights(ema, tiny_model, tiny_data, tmp_path):
    def train(work, **options):
        model = tiny_model()
        context = FitContext(work=work, constraints=(make_zeros(),), seed=5, **options)
        training = {**QUICK, "epochs": 3, "ema": ema, "keep": "last"}
        distill(model, tiny_model(seed=1), tiny_data, context, DistillConfig(**training))
        return model.state_dict()

    expected = train(None)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, callback=Interrupted())
    found = train(tmp_path)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_another_aim_is_another_training():
    other = GradualZeros(NAMES, choice=WeightRanking(scope="local"), sparsity=0.8, reached_at=0.5)
    assert other.fingerprint != make_zeros().fingerprint == make_zeros().fingerprint
