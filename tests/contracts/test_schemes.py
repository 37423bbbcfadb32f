"""What every scheme of distillation does with a student and a teacher."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.training.contract import FitContext

KINDS = ("scheme",)
TRAINING = {"epochs": 3, "batch_size": 32, "learning_rate": 0.05, "precision": "fp32"}


@pytest.fixture(scope="module")
def distilled(tiny_model, tiny_data):
    """Return a function that runs a scheme with its defaults, once an attempt."""

    @cache
    def run(name, attempt=1):
        torch.manual_seed(attempt)
        teacher = tiny_model(seed=7, width=12)
        context = FitContext(seed=5, device="cpu")
        result = distill(
            tiny_model(seed=8, width=4),
            teacher,
            tiny_data,
            context,
            DistillConfig(scheme=name, **TRAINING, label_weight=0.5),
        )
        return result, teacher

    return run


def test_returns_a_student_for_the_same_classes(technique, distilled, tiny_data):
    result, _ = distilled(technique.name)
    x = torch.from_numpy(tiny_data.preprocessing.apply(tiny_data.validation.x))
    assert result.model.eval()(x).shape == (len(x), tiny_data.num_classes)


def test_makes_the_loss_smaller(technique, distilled):
    history = distilled(technique.name)[0].fit.history
    assert history[-1].loss < history[0].loss


def test_is_deterministic_under_a_seed(technique, distilled):
    one, two = distilled(technique.name)[0], distilled(technique.name, attempt=2)[0]
    assert one.fit.best_accuracy == two.fit.best_accuracy
    pairs = zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_leaves_the_teacher_as_it_was(technique, distilled, tiny_model):
    _, teacher = distilled(technique.name)
    before = tiny_model(seed=7, width=12).state_dict()
    assert all(torch.equal(teacher.state_dict()[name], before[name]) for name in before)
    assert not any(p.grad is not None for p in teacher.parameters())


def test_says_how_good_the_teacher_was(technique, distilled):
    assert 0 <= distilled(technique.name)[0].teacher_accuracy <= 1
