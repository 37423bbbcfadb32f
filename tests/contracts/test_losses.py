"""What every distillation loss is: a finite scalar that pulls the student to the teacher."""

from __future__ import annotations

import pytest
import torch

from tests.distill.loss_calls import called, each, example, gradients

KINDS = ("loss",)


@pytest.fixture
def inputs(technique):
    """Return student, teacher and labels in the shape that the loss needs."""
    return example(technique)


def test_is_a_finite_scalar(technique, inputs):
    value = called(technique, *inputs)
    assert value.shape == ()
    assert value.isfinite()


def test_moves_the_student(technique, inputs):
    called(technique, *inputs).backward()
    assert gradients(inputs[0]).isfinite().all()
    assert gradients(inputs[0]).abs().max() > 0


def test_is_deterministic(technique, inputs):
    assert torch.equal(called(technique, *inputs), called(technique, *inputs))


def test_does_not_depend_on_the_order_of_the_batch(technique, inputs):
    order = torch.randperm(8)
    shuffled = [each(lambda tensor: tensor[order], values) for values in inputs]
    found = called(technique, *shuffled, rows=order)
    assert torch.allclose(called(technique, *inputs), found, rtol=1e-4, atol=1e-6)


@pytest.mark.only(when=lambda technique: technique.facts.get("exact", True))
@pytest.mark.parametrize("step", [0.01, 0.3, 3.0])
def test_is_least_where_the_student_is_the_teacher(technique, inputs, step):
    _, teacher, labels = inputs
    away = each(lambda tensor: tensor + step * torch.randn_like(tensor), teacher)
    at_equal = called(technique, each(torch.clone, teacher), teacher, labels)
    assert called(technique, away, teacher, labels) > at_equal


def test_dead_features_leave_a_finite_gradient(technique, inputs):
    _, teacher, labels = inputs
    dead = each(lambda tensor: torch.zeros_like(tensor, requires_grad=True), teacher)
    called(technique, dead, teacher, labels).backward()
    assert gradients(dead).isfinite().all()
    # The two batch norms of `review` on no variance at all: 1e-5 ** -0.5 each.
    assert gradients(dead).abs().max() < 2e3
