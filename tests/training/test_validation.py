"""Validation counts what is right, and never a row of NaN."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy import registry
from kdeploy.data.contract import Split, TaskReference
from kdeploy.errors import ModelError
from kdeploy.training.processes import ALONE
from kdeploy.training.validation import Validated
from kdeploy.training.validation import validated as validated_on
from tests.tiny.language import text_data


class Broken(nn.Module):
    """Answers class 0 by `argmax`, with NaN for items of which the first pixel is 255."""

    def forward(self, x):
        logits = torch.tensor([[1.0, 0, 0, 0]]).repeat(len(x), 1)
        logits[x[:, 0, 0, 0] > 9] = float("nan")
        return logits


def validated(x, tiny_data):
    part = Split(x=x, y=np.zeros(len(x), np.int64))
    return validated_on(
        Broken(), part, tiny_data.preprocessing, device=torch.device("cpu"), processes=ALONE
    )


def test_a_row_of_nan_is_not_counted_as_the_first_class(tiny_data):
    x = np.resize(np.array(tiny_data.validation.x), (300, *tiny_data.validation.x.shape[1:]))
    x = x.astype(np.float32)
    x[:, 0, 0, 0] = 0
    assert validated(x, tiny_data) == Validated(accuracy=1.0, worth=1.0)
    x[290, 0, 0, 0] = 1e9
    with pytest.raises(ModelError, match="validation item 290"):
        validated(x, tiny_data)


class Sure(nn.Module):
    """Prefers the token behind the one that it is given, by some logits."""

    def __init__(self, margin, right=1.0):
        super().__init__()
        self.margin, self.right = margin, right

    def forward(self, ids):
        logits = torch.zeros(*ids.shape, 260)
        ahead = torch.where(torch.rand(ids.shape) < self.right, 3, 4)
        return logits.scatter_(2, ((ids + ahead) % 260).unsqueeze(-1), self.margin)


def test_epochs_of_a_language_model_are_compared_by_the_likelihood_of_a_token():
    data = text_data()
    data = replace(data, task=TaskReference(name="language_modeling"))
    task = registry.find("task", "language_modeling").load()()
    parts = []
    for model in (Sure(2.0, right=0.5), Sure(40.0, right=0.6)):
        torch.manual_seed(0)
        parts.append(
            validated_on(
                model,
                data.validation,
                data.preprocessing,
                device=torch.device("cpu"),
                processes=ALONE,
                task=task,
            )
        )
    careful, sure = parts
    assert sure.accuracy > careful.accuracy
    assert sure.worth < careful.worth
    torch.manual_seed(0)
    x, y = (torch.from_numpy(a.astype(np.int64)) for a in (data.validation.x, data.validation.y))
    logits = Sure(2.0, right=0.5)(x)
    expected = -nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-100)
    assert careful.worth == pytest.approx(float(expected), rel=1e-5)
