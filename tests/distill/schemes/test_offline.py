"""Offline: one student, one teacher, one training."""

from __future__ import annotations

import pytest
from torch import nn

from kdeploy.distill.schemes.offline import offline


class Context:
    def __init__(self):
        self.trained = []

    def train(self, objective, *, name=""):
        self.trained.append((objective, name))


def test_trains_the_student_on_the_objective_once():
    student, teacher, context = nn.Identity(), nn.Identity(), Context()
    made = offline([student], [teacher], lambda s, t: ("objective", s, t), context)
    assert made is student
    assert context.trained == [(("objective", student, teacher), "")]


def test_is_for_one_of_each():
    with pytest.raises(ValueError, match="too many values"):
        offline([nn.Identity()], [nn.Identity()] * 2, lambda s, t: None, Context())
