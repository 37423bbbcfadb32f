"""Tracing leaves a model as it was."""

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.pruning.coupling import find_groups
from kdeploy.pruning.removal import all_channels, remove_checked
from kdeploy.pruning.tracing import trace, traceable


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
    readers = [node.name for source in graph.sources for node in source.outputs]
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


class _WithAuxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.head, self.auxiliary = nn.Linear(6, 3), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.relu(self.a(x))
        y = self.head(torch.relu(self.b(h)).mean((2, 3)))
        return (y, self.auxiliary(h.mean((2, 3)))) if self.training else y


def test_outputs_of_training_alone_lose_their_channels_too():
    model, x = _WithAuxiliary(), torch.rand(2, 1, 6, 6)
    with traceable(model):
        groups = find_groups(model, x)
        of_a = [
            group for group in groups if any(layer_dim.layer == "a" for layer_dim in group.channels)
        ]
        assert {layer_dim.layer for layer_dim in of_a[0].channels} == {"a", "b", "auxiliary"}
        assert remove_checked(model, all_channels(of_a[:3]), x) < 1e-5
    assert model.auxiliary.in_features == 5
    assert [tuple(out.shape) for out in model.train()(x)] == [(2, 3), (2, 3)]


def test_a_model_that_is_not_meant_for_training_is_followed(example):
    class Serving(nn.Sequential):
        def forward(self, x):
            assert not self.training, "for inference"
            return super().forward(x)

    model = Serving(nn.Flatten(), nn.Linear(example[0].numel(), 6), nn.ReLU(), nn.Linear(6, 3))
    model.eval()
    with traceable(model):
        assert len(find_groups(model, example)) == 6
