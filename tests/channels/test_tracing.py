"""Tracing leaves a model as it was."""

import pytest
import torch
from torch import nn

from kdeploy.channels.tracing import trace, traceable
from kdeploy.errors import ModelError


def test_modes_and_the_wish_for_gradients_come_back():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    with torch.no_grad(), traceable(model):
        assert not any(module.training for module in model.modules())
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert [parameter.requires_grad for parameter in model.parameters()][:2] == [False, True]


def test_they_come_back_after_an_error_too():
    model = nn.Sequential(nn.Linear(3, 4)).train()
    with pytest.raises(ModelError), traceable(model):
        trace(model, torch.zeros(2, 5))
    assert model.training


def test_the_node_of_the_input_is_known(make, example):
    model = make("Shared")
    with traceable(model):
        graph = trace(model, example)
    readers = [node.name for node in graph.source.outputs]
    assert any(name.startswith("stem") for name in readers)
    assert len(readers) == 2


def test_a_model_that_returns_no_tensor_is_one_error(example):
    class Counting(nn.Module):
        def forward(self, x):
            return len(x)

    model = Counting()
    with (
        traceable(model),
        pytest.raises(
            ModelError, match=r"the model returns an object of the type `int`.*return len"
        ),
    ):
        trace(model, example)
