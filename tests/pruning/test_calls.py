"""Recorded calls: what was called, with what, in which module."""

import torch
from torch import nn

from kdeploy.pruning.calls import recording, tensors_in


def test_calls_know_their_module_their_arguments_and_their_results():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU()))
    x = torch.ones(2, 3)
    with recording(model) as calls:
        y = model(x)
        y + 1
    linear, relu, add = calls
    assert [(call.name, call.module) for call in calls] == [
        ("linear", "0"),
        ("relu", "1.0"),
        ("add", ""),
    ]
    assert linear.tensors[0] is x
    assert relu.results[0] is y
    assert add.args[1] == 1


def test_a_module_that_fails_is_left_as_well():
    class Fragile(nn.Module):
        def forward(self, x):
            try:
                return self.inner(x)
            except RuntimeError:
                return x * 2

    model = Fragile()
    model.inner = nn.Linear(5, 5)
    x = torch.ones(2, 3)
    with recording(model) as calls:
        model(x)
    assert [(call.name, call.module) for call in calls] == [("mul", "")]
    assert not model._forward_hooks
    assert not model.inner._forward_pre_hooks


def test_tensors_are_found_in_lists():
    one, two = torch.zeros(1), torch.zeros(2)
    assert list(tensors_in([one, (two, 3), "x"])) == [one, two]
