"""Unstructured sparsity on whole networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.compress.compressors.unstructured import is_sparse, unstructured
from kdeploy.compress.contract import CompressContext
from kdeploy.errors import ModelError
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, Supervised, fit

SPARED = ("stem", "depthwise")


@pytest.fixture
def context(tiny_data):
    return CompressContext(data=tiny_data)


def weights(model, *, without=SPARED):
    return {
        name: layer.weight.detach()
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and name not in without
    }


def zeros(given):
    return sum(int((w == 0).sum()) for w in given.values()) / sum(w.numel() for w in given.values())


def test_the_smallest_weights_of_all_layers_go(tiny_model, context):
    model = tiny_model()
    result = unstructured(model, context, sparsity=0.6)
    given, kept = weights(model), weights(result)
    assert zeros(kept) == pytest.approx(0.6, abs=1e-3)
    together = np.concatenate([w.numpy().ravel() for w in given.values()])
    threshold = np.sort(np.abs(together))[round(0.6 * len(together))]
    for name, weight in given.items():
        assert torch.equal(kept[name], weight * (weight.abs() >= threshold))
    is_sparse(result)


def test_first_and_depthwise_layers_stay_dense_unless_asked(tiny_model, context):
    result = unstructured(tiny_model(), context, sparsity=0.9)
    assert zeros({name: result.get_submodule(name).weight for name in SPARED}) == 0
    reasons = {row["layer"]: row["reason"] for row in context.report["kept_dense"]}
    assert reasons == {"stem": "runs first", "depthwise": "depthwise convolution"}
    everywhere = unstructured(tiny_model(), context, scope="local", spare=False)
    for name, weight in weights(everywhere, without=()).items():
        assert zeros({name: weight}) == pytest.approx(0.5, abs=0.01)
    assert context.report["kept_dense"] == []


def test_wanda_takes_the_same_part_of_each_output(tiny_model, context):
    result = unstructured(tiny_model(), context, importance="wanda", scope="local", batches=2)
    for weight in weights(result).values():
        assert ((weight == 0).flatten(1).sum(1) == weight[0].numel() // 2).all()
    by_size = weights(unstructured(tiny_model(), context, scope="local"))
    assert any(not torch.equal(by_size[n], w) for n, w in weights(result).items())


def test_says_what_it_saves_behind_a_compressor(tiny_model, context):
    unstructured(tiny_model(), context, sparsity=0.9, ignore=("head",))
    size = context.report["compressed_bytes"]
    assert size["after"] < 0.6 * size["before"]
    rows = {row["layer"]: row for row in context.report["sparsity"]}
    assert rows["head"] == {"layer": "head", "weights": 64, "sparsity": 0.0}
    assert rows["blocks.1.conv2"]["sparsity"] > 0.8


@pytest.mark.parametrize("training", [{"keep": "last"}, {"keep": "last", "ema": 0.9}])
def test_gradual_ends_at_the_asked_sparsity(training, tiny_model, tiny_data):
    asked = []

    def train(model, teacher, asked_for):
        asked.append((asked_for.name, asked_for.keep, asked_for.is_last, zeros(weights(teacher))))
        options = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05, **training}
        fit(
            Supervised(model),
            tiny_data,
            FitContext(constraints=tuple(asked_for.constraints)),
            TrainingConfig(**options),
        )

    context = CompressContext(data=tiny_data, train=train)
    model = tiny_model()
    result = unstructured(model, context, schedule="gradual", sparsity=0.7)
    assert asked == [("gradual", "last", True, 0)]
    assert zeros(weights(result)) == pytest.approx(0.7, abs=1e-3)
    kept = weights(result)["blocks.1.conv2"]
    moved = kept != weights(model)["blocks.1.conv2"]
    assert (moved & (kept != 0)).any(), "what is left was trained"


def test_gradual_without_a_training_says_what_is_missing(tiny_model, context):
    with pytest.raises(ModelError, match="trains the model"):
        unstructured(tiny_model(), context, schedule="gradual")


def test_says_when_there_is_nothing_to_do(tiny_model, context):
    with pytest.raises(ModelError, match="no layer is left") as caught:
        unstructured(tiny_model(), context, ignore=("blocks.*", "head"))
    assert "spare" in caught.value.hint


def test_warns_of_a_setting_without_effect(tiny_model, context, caplog):
    unstructured(tiny_model(), context, reached_at=0.5)
    assert "`reached_at` has no effect" in caplog.text


def test_its_check_finds_dense_weights(tiny_model):
    with pytest.raises(AssertionError, match="no layer has zeros"):
        is_sparse(tiny_model())
