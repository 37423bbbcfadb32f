"""What every distillation loss is: a finite scalar that pulls the student to the teacher."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdeploy.registry import validate
from tests.distill.loss_calls import called, each, example, gradients

KINDS = ("loss",)
ELSEWHERE = {
    "on_policy": "test_jsd.py: text that the student writes",
    "prompt_tokens": "test_jsd.py",
    "sampling_temperature": "test_jsd.py",
    "student_heads": "test_attention_scores.py: both numbers have to agree",
    "teacher_heads": "test_attention_scores.py",
    "at_ignored": "test_pixel_kd.py: labels have to hold pixels of no class",
    "blank": "test_ctc_kd.py: random frames all say something",
    "blank_above": "test_ctc_kd.py",
    "margin": "test_regression_kd.py: here the teacher does better or worse by far",
    "padding": "the tests of each: it needs ids of tokens",
    "momentum": "test_crd.py: it counts from the second batch on",
}
"""Parameters that one call of a loss on random features cannot show."""


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


@pytest.mark.only(when=lambda technique: not technique.facts.get("draws"))
def test_does_not_depend_on_the_order_of_the_batch(technique, inputs):
    order = torch.randperm(8)
    shuffled = [each(lambda tensor: tensor[order], values) for values in inputs]
    found = called(technique, *shuffled, places=order)
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


# TextBrewer reads `match_weghts`, TRL's GKD keeps its temperature: a parameter that does nothing.
def test_every_parameter_reaches_the_value(technique, inputs):
    at_defaults, unused = called(technique, *inputs), []
    for parameter in technique.parameters:
        if parameter.name not in ELSEWHERE:
            other = {parameter.name: _another(parameter.default)}
            validate(technique.parameters, other, where=technique.name)
            if torch.equal(called(technique, *inputs, **other), at_defaults):
                unused.append(parameter.name)
    assert unused == []


def test_the_host_does_not_wait_for_the_device(technique, inputs):
    with NothingRead():
        called(technique, *inputs).backward()


@pytest.mark.parametrize(
    "read", [torch.Tensor.item, torch.nonzero, lambda x: x[x > 0], lambda x: torch.equal(x, x)]
)
def test_what_is_read_back_would_be_noticed(read):
    with pytest.raises(AssertionError), NothingRead():
        read(torch.ones(1))


class NothingRead(TorchDispatchMode):
    """Refuses what a GPU would have to be waited for: values, and sizes that depend on values."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "nonzero", "masked_select", "equal"}, name
        masks = args[1] if name in {"index", "index_put_"} else ()
        assert not any(m is not None and m.dtype == torch.bool for m in masks), "rows by a mask"
        return function(*args, **(kwargs or {}))


def _another(default):
    """Return another allowed value: half, or a quarter of 0; 3 heads, channels, items, terms."""
    if isinstance(default, bool):
        return not default
    return (default / 2 or 0.25) if isinstance(default, float) else 3
