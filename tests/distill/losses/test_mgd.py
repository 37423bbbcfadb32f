"""Masked generative distillation: what the mask hides, and what is made of the rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdeploy.distill.losses.mgd import Mgd
from tests.distill.formulas import drawn

SHAPE = (4, 3, 8, 8)


def test_is_the_error_of_what_the_two_convolutions_make_of_the_unmasked_part():
    student, teacher = map(torch.from_numpy, drawn(0, *SHAPE))
    loss = Mgd(SHAPE, SHAPE, None, masked=0.5)
    torch.manual_seed(3)
    found = loss(student, teacher, None)
    torch.manual_seed(3)
    kept = (torch.rand(4, 1, 8, 8) >= 0.5).float()
    first, _, second = loss.generation
    made = second(functional.relu(first(student * kept)))
    assert found.item() == pytest.approx(((made - teacher) ** 2).mean().item(), rel=1e-5)


def test_a_masked_position_gets_no_gradient():
    student, teacher = map(torch.from_numpy, drawn(1, *SHAPE))
    student.requires_grad_()
    Mgd(SHAPE, SHAPE, None, masked=0.65)(student, teacher, None).backward()
    hidden = (student.grad == 0).all(dim=1).float().mean().item()
    assert hidden == pytest.approx(0.65, abs=0.1)


def test_learns_to_generate_the_teacher_s_map():
    student, teacher = map(torch.from_numpy, drawn(2, *SHAPE))
    loss = Mgd(SHAPE, (4, 5, 8, 8), None, masked=0.0)
    assert isinstance(loss.projection, nn.Conv2d)
    wide = torch.cat([teacher, teacher[:, :2]], dim=1)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        values.append(loss(teacher, wide, None))
        values[-1].backward()
        optimizer.step()
    assert values[-1] < 0.5 * values[0]
    assert student.shape == teacher.shape
