"""Localisation distillation against numpy: which cells count, and how much."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdeploy.distill.contract import Batch
from kdeploy.distill.losses.ld import Ld
from kdeploy.errors import ModelError
from tests.distill.formulas import drawn, softmax

SHAPE = (2, 20, 4, 4)  # five bins an edge
BOXES = [[[0, 0, 32, 16, 1]], [[16, 16, 31, 32, 0]]]  # of 64 pixels: stride 16


def value(student, teacher, boxes=BOXES, **options):
    loss = Ld(student.shape, teacher.shape, None, **options)
    batch = Batch(torch.zeros(2, 1, 64, 64), torch.tensor(boxes).float(), torch.arange(2))
    return loss(torch.as_tensor(student), torch.as_tensor(teacher), batch)


def divergences(student, teacher, temperature):
    """Return the mean over the four edges for each cell, (batch, height, width)."""
    rows = (z.reshape(2, 4, 5, 16).transpose(0, 1, 3, 2).reshape(-1, 5) for z in (student, teacher))
    own, other = (softmax(z, temperature) for z in rows)
    per_edge = (other * np.log(other / own)).sum(1) * temperature**2
    return per_edge.reshape(2, 4, 4, 4).mean(1)


@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_is_the_mean_over_the_cells_of_objects(temperature):
    student, teacher = drawn(0, *SHAPE)
    cells = divergences(student, teacher, temperature)
    expected = np.mean([cells[0, 0, 0], cells[0, 0, 1], cells[1, 1, 1]])
    found = value(student, teacher, temperature=temperature).item()
    assert found == pytest.approx(expected, rel=1e-4)


def test_other_cells_count_with_their_own_weight():
    student, teacher = drawn(1, *SHAPE)
    cells = divergences(student, teacher, 10.0)
    weight = np.full((2, 4, 4), 0.25)
    weight[0, 0, :2] = weight[1, 1, 1] = 1
    found = value(student, teacher, elsewhere=0.25).item()
    assert found == pytest.approx((cells * weight).sum() / weight.sum(), rel=1e-4)


def test_does_not_see_what_is_added_to_all_bins_of_an_edge():
    student, teacher = drawn(2, *SHAPE)
    shift = np.random.default_rng(0).normal(size=(2, 4, 1, 4, 4)).astype(np.float32)
    shifted = (student.reshape(2, 4, 5, 4, 4) + shift).reshape(SHAPE)
    assert value(shifted, teacher).item() == pytest.approx(value(student, teacher).item(), rel=1e-4)


def test_without_objects_it_is_nothing():
    nobody = [[[0, 0, 0, 0, -1]]] * 2
    assert value(*drawn(3, *SHAPE), boxes=nobody).item() == 0


def test_of_a_certain_teacher_it_is_the_cross_entropy_of_its_bins():
    student = torch.from_numpy(drawn(4, *SHAPE)[0])
    bins = torch.arange(2 * 4 * 16).reshape(2, 4, 4, 4) % 5
    teacher = 1e4 * functional.one_hot(bins, 5).permute(0, 1, 4, 2, 3).reshape(SHAPE).float()
    own = student.reshape(2, 4, 5, 4, 4).transpose(1, 2)
    everywhere = [[[0, 0, 64, 64, 0]]] * 2
    found = value(student, teacher, boxes=everywhere, temperature=1.0)
    assert found.item() == pytest.approx(functional.cross_entropy(own, bins).item(), rel=1e-4)


def test_one_distance_an_edge_has_no_distribution():
    with pytest.raises(ModelError, match=r"`ld` compares distributions .*\(2, 4, 4, 4\)") as caught:
        value(*drawn(0, 2, 4, 4, 4))
    assert "bins" in caught.value.hint
