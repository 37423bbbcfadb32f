"""Zeros that are counted, weighed and held."""

from __future__ import annotations

import zlib

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.sparsity.zeros import (
    HeldZeros,
    compressed_bytes,
    layers_with_weights,
    sparse_weights,
    sparsity,
)
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, Supervised, fit

QUICK = {"batch_size": 16, "learning_rate": 0.05, "precision": "fp32"}


def halved(model):
    """Return the model with every other weight of its convolutions at zero."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data.view(-1)[::2] = 0
    return model


class Interrupted:
    """A callback that stops the training after its first epoch."""

    def __getattr__(self, name):
        return lambda *_: None

    def epoch_ended(self, record):
        raise KeyboardInterrupt


def test_counts_zeros_of_linear_and_convolution_layers_alone():
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 4))
    model[0].weight.data.view(-1)[:2] = 0
    model[1].bias.data.zero_()
    assert sparsity(model) == 2 / 16
    assert sparse_weights(model) == ("0.weight",)
    assert sparse_weights(model, least=0.3) == ()
    assert sparse_weights(model[0]) == ("weight",)
    assert sparsity(nn.ReLU()) == 0


def test_counts_a_shared_weight_once_and_leaves_out_one_that_is_computed():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    nn.utils.parametrizations.weight_norm(model[2])
    assert list(layers_with_weights(model)) == ["0"]


def test_compressed_size_is_that_of_zlib_over_all_tensors():
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64)).to(torch.bfloat16)
    together = b"".join(
        t.reshape(-1).view(torch.uint8).numpy().tobytes() for t in model.state_dict().values()
    )
    assert compressed_bytes(model) == len(zlib.compress(together, 6))
    dense = compressed_bytes(model)
    model[0].weight.data[:, ::2] = 0
    assert compressed_bytes(model) < 0.75 * dense


def test_refuses_to_hold_a_parameter_that_is_not_there():
    with pytest.raises(ModelError, match=r"`1\.weight` are to be held"):
        HeldZeros(["1.weight"]).begin(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    "options",
    [
        {"channels_last": False},
        {"precision": "bf16"},
        {"ema": 0.9},
        {"optimizer": "adamw", "learning_rate": 0.002, "keep": "last"},
        {"accumulate": 2, "clip_norm": 1.0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_zeros_stay_in_every_kind_of_training(options, tiny_model, tiny_data):
    model = halved(tiny_model())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    names = sparse_weights(model)
    context = FitContext(constraints=(HeldZeros(names),))
    fit(Supervised(model), tiny_data, context, TrainingConfig(epochs=1, **{**QUICK, **options}))
    assert names
    for name in names:
        weight = model.get_parameter(name)
        assert torch.equal(weight == 0, before[name] == 0)
        assert not torch.equal(weight, before[name]), "the others are trained"


@pytest.mark.parametrize("ema", [None, 0.9])
def test_an_interrupted_training_ends_in_the_same_weights(ema, tiny_model, tiny_data, tmp_path):
    def train(work, **options):
        model = halved(tiny_model())
        context = FitContext(
            work=work, constraints=(HeldZeros(sparse_weights(model)),), seed=5, **options
        )
        fit(
            Supervised(model),
            tiny_data,
            context,
            TrainingConfig(epochs=2, ema=ema, keep="last", **QUICK),
        )
        return model.state_dict()

    expected = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, callback=Interrupted())
    found = train(tmp_path)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
