"""Validation counts what is right, and never a row of NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.data.contract import Split
from kdeploy.errors import ModelError
from kdeploy.training.processes import ALONE
from kdeploy.training.validation import validation_accuracy


class Broken(nn.Module):
    """Answers class 0 by `argmax`, with NaN for items of which the first pixel is 255."""

    def forward(self, x):
        logits = torch.tensor([[1.0, 0, 0, 0]]).repeat(len(x), 1)
        logits[x[:, 0, 0, 0] > 9] = float("nan")
        return logits


def validated(x, tiny_data):
    part = Split(x=x, y=np.zeros(len(x), np.int64))
    return validation_accuracy(
        Broken(), part, tiny_data.preprocessing, device=torch.device("cpu"), processes=ALONE
    )


def test_a_row_of_nan_is_not_counted_as_the_first_class(tiny_data):
    x = np.resize(np.array(tiny_data.validation.x), (300, *tiny_data.validation.x.shape[1:]))
    x = x.astype(np.float32)
    x[:, 0, 0, 0] = 0
    assert validated(x, tiny_data) == 1.0
    x[290, 0, 0, 0] = 1e9
    with pytest.raises(ModelError, match="validation item 290"):
        validated(x, tiny_data)
