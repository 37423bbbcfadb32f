from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.export.io_signature import FlattenOutputs, ends_of, open_axes

X = torch.zeros(2, 3)


class Pair(NamedTuple):
    scores: torch.Tensor
    boxes: torch.Tensor


class Gives(nn.Module):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, images, mask=None):
        return self.result


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (X, ("output",)),
        ((X,), ("output",)),
        ([X, X], ("output.0", "output.1")),
        (Pair(X, X), ("scores", "boxes")),
        ({"logits": X, "loss": None, "hidden": (X, X)}, ("logits", "hidden.0", "hidden.1")),
        ((X, (X, X)), ("output.0", "output.1.0", "output.1.1")),
    ],
)
def test_outputs_are_named_by_what_returns_them(result, names):
    model = Gives(result)
    assert ends_of(model, (X,)).outputs == names
    assert len(FlattenOutputs(model)(X)) == len(names)


def test_several_inputs_are_named_as_forward_names_them():
    assert ends_of(Gives(X), (X,)).inputs == ("input",)
    assert ends_of(Gives(X), (X, X)).inputs == ("images", "mask")
    assert ends_of(FlattenOutputs(nn.Bilinear(3, 3, 1)), (X, X)).inputs == ("input_0", "input_1")


def test_no_tensor_and_a_wrong_example_are_refused():
    with pytest.raises(ModelError, match="without a tensor"):
        ends_of(Gives("text"), (X,))
    with pytest.raises(ModelError, match=r"cannot run inputs of shape \[\[2, 3\]\]"):
        ends_of(nn.Linear(4, 1), (X,))


def test_open_sizes_are_axes_of_the_input():
    assert open_axes(("height", "width"), (torch.zeros(2, 3, 4, 5),)) == {2: "height", 3: "width"}
    assert open_axes(("length",), (torch.zeros(2, 3, 4),)) == {2: "length"}
    assert open_axes(("length",), (torch.zeros(2, 7, dtype=torch.int64),)) == {1: "length"}
    with pytest.raises(ModelError, match="have no height"):
        open_axes(("height",), (torch.zeros(2, 3, 4),))
