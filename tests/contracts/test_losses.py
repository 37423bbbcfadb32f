"""What every distillation loss is: a finite scalar that pulls the student to the teacher."""

from __future__ import annotations

import pytest
import torch

KINDS = ("loss",)
SHAPES = {"logits": (8, 5), "features": (8, 6, 4, 4)}


@pytest.fixture
def inputs(technique):
    """Return student, teacher and labels in the shape that the loss needs."""
    shape = SHAPES[technique.facts.get("needs", "logits")]
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(shape, generator=generator) for _ in range(2))
    return student.requires_grad_(), teacher, torch.arange(shape[0]) % 5


@pytest.fixture
def loss(technique):
    """Return the loss with its defaults, seeded."""
    function = technique.load()

    def call(student, teacher, labels):
        torch.manual_seed(0)
        return function(student, teacher, labels)

    return call


def test_is_a_finite_scalar(technique, loss, inputs):
    value = loss(*inputs)
    assert value.shape == ()
    assert value.isfinite()


def test_moves_the_student(technique, loss, inputs):
    loss(*inputs).backward()
    gradient = inputs[0].grad
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_is_deterministic(technique, loss, inputs):
    assert torch.equal(loss(*inputs), loss(*inputs))


def test_does_not_depend_on_the_order_of_the_batch(technique, loss, inputs):
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    shuffled = [tensor[order] for tensor in inputs]
    assert torch.allclose(loss(*inputs), loss(*shuffled), rtol=1e-4, atol=1e-6)


def test_is_least_where_the_student_is_the_teacher(technique, loss, inputs):
    _, teacher, labels = inputs
    at_equal = loss(teacher.clone(), teacher, labels)
    for step in (0.01, 0.3, 3.0):
        away = teacher + step * torch.randn(teacher.shape)
        assert loss(away, teacher, labels) > at_equal
