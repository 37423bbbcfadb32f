from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from kdeploy.compress.compressors.int8_ptq import int8_ptq
from kdeploy.compress.contract import CompressContext
from kdeploy.compress.mixed_precision import precision_of
from kdeploy.errors import DataError, GateFailed, RecipeError


class Fragile(nn.Module):
    """A linear layer whose answer depends on values far below its input's largest one."""

    def __init__(self):
        super().__init__()
        self.plain, self.fragile = nn.Linear(144, 144), nn.Linear(145, 4)
        self.last = nn.Linear(4, 4)

    def forward(self, x):
        x = self.plain(x.flatten(1))
        return self.last(self.fragile(torch.cat((x, x[:, :1] * 0 + 1e4), 1)))


@pytest.fixture
def fragile(tiny_data):
    """Return a network that is right on the tiny data, by one layer that INT8 breaks."""
    model = Fragile()
    x = torch.from_numpy(tiny_data.preprocessing.apply(tiny_data.train.x)).flatten(1)
    goals = torch.eye(4)[torch.from_numpy(tiny_data.train.y)] * 10
    with torch.no_grad():
        model.plain.weight.copy_(torch.eye(144))
        model.plain.bias.zero_()
        model.last.weight.copy_(torch.eye(4))
        model.last.bias.zero_()
        model.fragile.weight.zero_()
        solved = torch.linalg.lstsq(x, goals).solution
        model.fragile.weight[:, :144] = solved.T
        model.fragile.bias.zero_()
    return model.eval()


@pytest.fixture
def context(tiny_data):
    return CompressContext(data=tiny_data, seed=3)


def test_the_layer_that_hurts_goes_back_to_float_and_is_listed(fragile, context):
    small = int8_ptq(fragile, context, max_drop="1pp")
    assert small.float_layers == ["fragile"]
    [row] = context.report["float_layers"]
    assert (row["layer"], row["reason"]) == ("fragile", "`max_drop`")
    assert row["accuracy_drop"] > 0.01
    ranking = [row["layer"] for row in context.report["sensitivity"]]
    assert ranking[0] == "fragile"
    assert sorted(ranking) == ["fragile", "last", "plain"]
    tried = {row["float_layers"]: row["drop"] for row in context.report["mixed_precision"]}
    assert tried[0] > 0.01 >= tried[1]


def test_nothing_is_float_where_int8_costs_too_little(tiny_model, context):
    small = int8_ptq(tiny_model(), context, max_drop="40pp")
    assert small.float_layers == []
    assert context.report["float_layers"] == []


def test_a_budget_that_cannot_be_held_is_an_error_with_the_numbers(fragile, context):
    fragile.last = nn.Identity()
    with pytest.raises(GateFailed, match=r"more than 0.00 pp .* one of 1 layers") as caught:
        int8_ptq(fragile, context, max_drop="0pp", ignore=("plain",))
    assert "int8_qat" in caught.value.hint


def test_a_budget_is_a_drop_of_accuracy_on_a_validation_part(context):
    for wrong in ("2ms", "0.5", "200pp"):
        with pytest.raises(RecipeError, match="max_drop"):
            precision_of(wrong, (), False, context)
    assert precision_of("0.5pp", (), False, context).max_drop == pytest.approx(0.005)
    part = context.data.validation
    empty = dataclasses.replace(part, x=part.x[:0], y=part.y[:0])
    nothing = CompressContext(data=dataclasses.replace(context.data, validation=empty))
    with pytest.raises(DataError, match="no validation items"):
        precision_of(None, (), True, nothing)
