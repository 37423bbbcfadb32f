"""Exits: heads on inner layers, asked all at once or until one is sure."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.distill.exits import Exits, attach_exits, count_without_exits
from kdeploy.errors import ModelError, UnknownName
from kdeploy.store.model_io import load_model
from kdeploy.torch_module.complexity import count_parameters

PATHS = ["blocks.0", "blocks.1"]
X = torch.randn(6, 1, 12, 12)


@pytest.fixture
def model(tiny_model):
    made = tiny_model(seed=3)
    attach_exits(made, PATHS, X[:2], num_classes=4)
    return made.eval()


def test_the_model_says_what_it_said_without_exits(model, tiny_model):
    assert torch.equal(model(X), tiny_model(seed=3)(X))
    assert torch.equal(Exits(model)(X), model(X))
    assert count_without_exits(model) == count_parameters(tiny_model()) < count_parameters(model)


def test_an_exit_is_pooling_and_a_linear_layer_on_its_features(model):
    found = Exits(model).exits(X)
    assert [tuple(logits.shape) for logits in found] == [(6, 4)] * 3
    features = model.blocks[0](torch.relu(model.bn(model.stem(X))))
    linear = model.exit_heads.get_submodule("blocks/0")[2]
    torch.testing.assert_close(found[0], linear(features.mean((2, 3))))
    assert torch.equal(found[-1], model(X))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.33, 2.0])
def test_each_item_leaves_at_the_first_sure_exit(model, threshold):
    every = torch.stack(Exits(model).exits(X))
    answer, left = Exits(model).early(X, threshold=threshold)
    sure = every.softmax(2).amax(2) >= threshold
    expected = [next((e for e in range(2) if sure[e, i]), 2) for i in range(6)]
    assert left.tolist() == expected
    torch.testing.assert_close(answer, every[left, torch.arange(6)])


def test_the_rest_does_not_run_once_all_have_left(model):
    def never(module, inputs):
        pytest.fail("the second block ran")

    model.blocks[1].register_forward_pre_hook(never)
    assert Exits(model).early(X, threshold=0.0)[1].tolist() == [0] * 6


def test_comes_back_from_an_artefact_with_its_exits(model, store_model):
    again = load_model(store_model(model))
    for stored, made in zip(Exits(again).exits(X), Exits(model).exits(X), strict=True):
        assert torch.equal(stored, made)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Conv1d(3, 5, 1), torch.randn(2, 3, 7)),
        (nn.Linear(7, 5), torch.randn(2, 7)),
        (nn.Sequential(nn.Flatten(2), nn.Linear(16, 5)), torch.randn(2, 3, 4, 4)),
    ],
    ids=["signals", "vectors", "tokens"],
)
def test_reads_signals_vectors_and_tokens(layer, x):
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(4)).eval()
    model(x)
    attach_exits(model, ["0"], x, num_classes=4)
    features = layer(x).detach()
    pooled = features if features.ndim == 2 else features.mean(2 if x.ndim == 3 else 1)
    head = model.exit_heads.get_submodule("0")
    linear = head if isinstance(head, nn.Linear) else head[2]
    np.testing.assert_allclose(
        Exits(model).exits(x)[0].detach(), linear(pooled).detach(), atol=1e-6
    )


def test_refuses_layers_that_are_not_there_or_no_head_can_read(model):
    with pytest.raises(UnknownName, match=r"blocks\.7"):
        attach_exits(model, ["blocks.7"], X, num_classes=4)
    deep = nn.Sequential(nn.Unflatten(1, (1, 1, 1)), nn.Flatten())
    with pytest.raises(ModelError, match="no exit can read it"):
        attach_exits(deep, ["0"], X, num_classes=4)


def test_says_why_a_model_has_no_usable_exits(model, tiny_model):
    with pytest.raises(ModelError, match="has no exits"):
        Exits(tiny_model())
    narrow = deepcopy(model)
    narrow.exit_heads.get_submodule("blocks/0")[2] = nn.Linear(5, 4)
    with pytest.raises(ModelError, match=r"`blocks\.0` does not fit") as caught:
        Exits(narrow).exits(X)
    assert "distil it again" in caught.value.hint
