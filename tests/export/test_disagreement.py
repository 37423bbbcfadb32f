"""A failed parity says what was found: the model, the shapes, the numbers, the sizes, the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.errors import ParityFailed
from kdeploy.export.parity import check_parity, measure_parity


class InPlace(nn.Module):
    def forward(self, x):
        x -= 0.5
        return x.flatten(1).cumsum(1)


class Random(nn.Module):
    def forward(self, x):
        return x.flatten(1) + torch.rand(12)


class Amplifying(nn.Module):
    """Differences of large numbers: what is left is the rounding."""

    def forward(self, x):
        return (x.flatten(1) + 1e7) - 1e7 + torch.arange(12) * 1e-3


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))


def file_of(model, change=lambda y: y):
    def run(x):
        with torch.no_grad():
            return change(model(torch.tensor(x)).numpy())

    return run


def no_number(y):
    y = y.copy()
    y[0, 2] = np.inf
    return y


@pytest.mark.parametrize(
    ("model", "change", "found", "hint"),
    [
        (InPlace(), lambda y: y + 9, r"in place at .*agreement\.py.*x -= 0\.5", "new tensor"),
        (Random(), lambda y: y, r"differently in two calls: .*torch\.rand\(12\)", "eval mode"),
        (
            Amplifying(),
            lambda y: y + np.float32(0.5) * y.std(),
            r"model itself is [\d.]+ standard deviations from itself in float64",
            "no file of it can be proven",
        ),
        (plain(), lambda y: y[:1], r"batch of 3 .*\(1, 5\), the model with \(3, 5\)", r"x\.shape"),
        (plain(), no_number, r"1 of 5 values .* first at \(0, 2\) of a batch of 1", "bound it"),
        (
            plain(),
            lambda y: y - y.mean(0) if len(y) == 32 else y,
            "right for batches of 1, 3 and wrong for 32",
            "dimension 0",
        ),
        (plain(), lambda y: y * (1, 1, 1.5, 1, 1), "6 of 6 batches are wrong, most at output 2;",
         "two halves"),
    ],
    ids=["in place", "random", "amplifying", "shapes", "numbers", "batches", "file"],
)  # fmt: skip
def test_the_cause_is_named_and_the_hint_follows_from_it(model, change, found, hint, data):
    parity = measure_parity(model, file_of(model, change), data((3, 4)))
    with pytest.raises(ParityFailed, match=f"(?i){found}") as caught:
        check_parity(parity, name="m.onnx")
    assert hint.replace("\\", "") in caught.value.hint
    assert "opset" not in caught.value.hint


def test_a_model_that_changes_its_input_does_not_change_what_the_file_gets(data):
    model = InPlace()
    assert measure_parity(model, file_of(model), data((3, 4))).max_abs == 0
