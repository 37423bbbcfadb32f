"""A step whose answers would not fit memory is made in parts, and comes to the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy import preprocessing
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, Supervised, fit
from tests.tiny.language import VOCABULARY, text_data


class Watched(nn.Embedding):
    def __init__(self):
        super().__init__(VOCABULARY, VOCABULARY)
        self.shown = []

    def forward(self, ids):
        if self.training:
            self.shown.append(len(ids))
        return super().forward(ids)


def trained(tmp_path):
    torch.manual_seed(0)
    model = Watched()
    config = TrainingConfig(
        epochs=1, batch_size=8, learning_rate=0.5, optimizer="sgd", precision="fp32", compile="off"
    )
    fit(Supervised(model), text_data(items=16), FitContext(seed=0, work=tmp_path), config)
    return model


def test_parts_of_a_step_come_to_the_same_weights(tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole")
    monkeypatch.setattr(preprocessing, "MOST_NUMBERS", 2 * 12 * VOCABULARY)
    parts = trained(tmp_path / "parts")
    assert max(whole.shown) == 8
    assert max(parts.shown) == 2
    torch.testing.assert_close(parts.weight, whole.weight, atol=1e-5, rtol=0)
    assert parts.weight.std() > 0.9, "it is a random table that learned a little"
    with pytest.raises(AssertionError):
        torch.testing.assert_close(parts.weight, Watched().weight)
