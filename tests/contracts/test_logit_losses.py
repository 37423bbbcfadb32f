"""What every loss on logits is: a batch mean, finite for any logits, blind to scale when asked."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from kdeploy.registry import techniques
from tests.distill.loss_calls import called, labels_of, shape_of, task_of

KINDS = ("loss",)


def on_logits(technique):
    return technique.facts.get("needs", "logits") == "logits"


def has(name):
    return lambda technique: on_logits(technique) and name in {p.name for p in technique.parameters}


def drawn(technique, *, scale=2.0):
    shape = (6, *shape_of(technique)[1:])
    return (*(torch.randn(shape) * scale for _ in range(2)), labels_of(task_of(technique), 6))


def test_there_is_something_to_test():
    assert sum(map(on_logits, techniques("loss").values())) > 3


@pytest.mark.only(when=on_logits)
def test_is_the_mean_over_the_batch(technique):
    once, loss = drawn(technique), partial(called, technique)
    twice = [torch.cat([values, values]) for values in once]
    assert loss(*twice).item() == pytest.approx(loss(*once).item(), rel=1e-5)


@pytest.mark.only(when=on_logits)
@pytest.mark.parametrize("scale", [80.0, 1e4])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_extreme_logits_leave_value_and_gradient_finite(technique, scale, temperature):
    *drawings, labels = drawn(technique)
    student, teacher = (values.sign() * scale for values in drawings)
    student.requires_grad_()
    softened = {"temperature": temperature} if has("temperature")(technique) else {}
    value = called(technique, student, teacher, labels, **softened)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.only(when=on_logits)
def test_no_gradient_reaches_the_teacher(technique):
    student, teacher, labels = drawn(technique)
    student.requires_grad_()
    called(technique, student, teacher.requires_grad_(), labels).backward()
    assert teacher.grad is None


@pytest.mark.only(when=has("temperature"))
def test_the_temperature_reaches_the_loss(technique):
    loss = partial(called, technique, *drawn(technique))
    assert loss(temperature=1.0).item() != pytest.approx(loss(temperature=8.0).item(), rel=1e-2)


@pytest.mark.only(when=has("standardize"))
@pytest.mark.parametrize(("factor", "shift"), [(0.1, 3.0), (25.0, -4.0)])
@pytest.mark.parametrize("side", [0, 1])
def test_standardised_it_does_not_see_a_positive_affine_map(technique, factor, shift, side):
    inputs = list(drawn(technique))
    loss = partial(called, technique, standardize=True)
    plain = loss(*inputs).item()
    assert plain != pytest.approx(called(technique, *inputs).item(), rel=1e-2)
    inputs[side] = factor * inputs[side] + shift
    assert loss(*inputs).item() == pytest.approx(plain, rel=1e-3)
