from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

from kdeploy.torch_module.named_outputs import named_outputs, register_dataclasses

X, Y, Z = torch.zeros(2), torch.ones(2), torch.full((2,), 2.0)


class Pair(NamedTuple):
    scores: torch.Tensor
    boxes: torch.Tensor


@dataclass
class Found:
    boxes: list
    scores: torch.Tensor
    count: int = 0


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (X, ["output"]),
        ((X,), ["output"]),
        ([X, Y], ["output.0", "output.1"]),
        ((X, (Y, {"z": Z})), ["output.0", "output.1.0", "output.1.1.z"]),
        (Pair(X, Y), ["scores", "boxes"]),
        ({"boxes": [X, Y], "scores": Z}, ["boxes.0", "boxes.1", "scores"]),
        ({"loss": None, "logits": X, "name": "a"}, ["logits"]),
        (Found([X, Y], Z, 3), ["boxes.0", "boxes.1", "scores"]),
        (None, []),
    ],
)
def test_a_name_is_the_way_to_the_tensor(answer, names):
    found = named_outputs(answer)
    assert list(found) == names
    assert [float(t[0]) for t in found.values()] == [0.0, 1.0, 2.0][: len(names)]


class Answers(nn.Module):
    def forward(self, x):
        return Found([x, x + 1], x + 2)


def test_a_dataclass_is_made_known_to_torch_export_once():
    assert register_dataclasses([Found([X], Y)]) == 1
    assert register_dataclasses(Found([X], Y)) == 0
    program = torch.export.export(Answers(), (X,))
    assert list(named_outputs(program.module()(X))) == ["boxes.0", "boxes.1", "scores"]
