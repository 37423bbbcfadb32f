"""Localisation distillation against numpy: what counts, and how much."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdeploy.distill.contract import TaskFacts
from kdeploy.distill.losses.ld import Ld
from kdeploy.errors import ModelError
from tests.distill.formulas import drawn, softmax

CLASSES, BINS = 3, 5
SHAPE = (2, 6, 4 + CLASSES + 4 * BINS)
FACTS = TaskFacts(num_classes=CLASSES, num_items=2)


def value(student, teacher, **options):
    sides = [torch.as_tensor(z) for z in (student, teacher)]
    return Ld(*(z.shape for z in sides), FACTS, **options)(*sides, None)


@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_is_the_divergence_of_bins_weighed_by_the_teacher_s_best_score(temperature):
    student, teacher = drawn(0, *SHAPE)
    rows = (z[..., 4 + CLASSES :].reshape(-1, BINS) for z in (student, teacher))
    own, other = (softmax(z, temperature) for z in rows)
    edges = (other * np.log(other / own)).sum(1).reshape(2, 6, 4).mean(2)
    weight = (1 / (1 + np.exp(-teacher[..., 4 : 4 + CLASSES].astype(np.float64)))).max(2)
    expected = temperature**2 * (edges * weight).sum() / weight.sum()
    found = value(student, teacher, temperature=temperature).item()
    assert found == pytest.approx(expected, rel=1e-4)


def test_does_not_see_what_is_added_to_all_bins_of_an_edge():
    student, teacher = drawn(2, *SHAPE)
    shifted = student.copy()
    shift = np.random.default_rng(0).normal(size=(2, 6, 4, 1)).astype(np.float32)
    shifted[..., 4 + CLASSES :] += np.broadcast_to(shift, (2, 6, 4, BINS)).reshape(2, 6, -1)
    assert value(shifted, teacher).item() == pytest.approx(value(student, teacher).item(), rel=1e-4)


def test_of_a_certain_teacher_it_is_the_cross_entropy_of_its_bins():
    student = torch.from_numpy(drawn(4, *SHAPE)[0])
    bins = torch.arange(2 * 6 * 4).reshape(2, 6, 4) % BINS
    teacher = torch.zeros(SHAPE)
    teacher[..., 4 : 4 + CLASSES] = 50.0
    teacher[..., 4 + CLASSES :] = 1e4 * functional.one_hot(bins, BINS).reshape(2, 6, -1)
    own = student[..., 4 + CLASSES :].reshape(-1, BINS)
    found = value(student, teacher, temperature=1.0)
    expected = functional.cross_entropy(own, bins.flatten())
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 6, 7), (2, 6, 7)], "found 0 numbers"),
        ([(2, 6, 27), (2, 6, 31)], "found 20 numbers of the student and 24"),
        ([(2, 6, 27), (2, 5, 27)], "one by one"),
    ],
)
def test_what_has_no_bins_to_compare_is_refused(shapes, message):
    with pytest.raises(ModelError, match=message) as caught:
        Ld(*shapes, FACTS)
    assert caught.value.hint
