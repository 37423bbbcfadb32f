"""Embeddings by direction against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.distill.losses.cosine import Cosine
from tests.distill.formulas import drawn, unit


def value(student, teacher):
    return Cosine(student.shape, teacher.shape, None)(
        torch.as_tensor(student), torch.as_tensor(teacher), None
    ).item()


def test_is_one_less_the_mean_cosine():
    student, teacher = drawn(0, 6, 5)
    expected = 1 - (unit(student) * unit(teacher)).sum(1).mean()
    assert value(student, teacher) == pytest.approx(expected, rel=1e-5)


def test_does_not_see_lengths():
    student, teacher = drawn(1, 6, 5)
    lengths = np.random.default_rng(0).uniform(0.1, 10, (6, 1)).astype(np.float32)
    found = value(student * lengths, teacher / lengths)
    assert found == pytest.approx(value(student, teacher), rel=1e-4)


def test_another_width_is_projected():
    assert isinstance(Cosine((6, 5), (6, 9), None).projection, nn.Linear)
    assert not list(Cosine((6, 5), (6, 5), None).parameters())
