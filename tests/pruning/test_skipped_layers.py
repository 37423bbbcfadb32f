"""Each layer that is as wide as before is told with its reason."""

import copy

import pytest
import torch

from kdeploy.pruning.coupling import LayerDim, find_units
from kdeploy.pruning.removal import all_channels, remove_channels
from kdeploy.pruning.skipped_layers import FROZEN, OUTPUT, UNEVEN, kept_whole
from kdeploy.pruning.tracing import traceable

EXAMPLE = torch.rand(2, 3, 8, 8)


@pytest.fixture
def residual(make, example):
    model = make("Residual")
    with traceable(model):
        units = find_units(model, example, is_protected=lambda name: name == "down")
    return model, units


def rows(model, pruned, **given):
    options = {"is_protected": lambda name: name == "down", "round_to": 8, **given}
    return {r["layer"]: r["reason"] for r in kept_whole(model, pruned, EXAMPLE, **options)}


def test_reasons_are_the_pattern_the_output_and_the_rounding(residual):
    model, units = residual
    pruned = copy.deepcopy(model)
    inner = [unit for unit in units if LayerDim("inner", "out") in unit.channels]
    remove_channels(pruned, all_channels(inner[:8]))
    found = rows(model, pruned, found=units, ranked=units)
    rounding = found["stem"]
    assert found == {
        "stem": rounding,
        "outer": rounding,
        "down": "`ignore` names it",
        "head": OUTPUT,
    }
    assert "round to 8" in rounding


def test_what_balance_left_out_is_uneven(residual):
    model, units = residual
    ranked = [unit for unit in units if LayerDim("inner", "out") not in unit.channels]
    assert rows(model, model, found=units, ranked=ranked)["inner"] == UNEVEN


def test_what_is_joined_to_a_layer_that_stays_is_not_called_the_output(make):
    model = make("Residual")
    with traceable(model):
        units = find_units(model, EXAMPLE, is_protected=lambda name: name == "stem")
    found = rows(model, model, found=units, ranked=units, is_protected=lambda name: name == "stem")
    assert (found["stem"], found["outer"], found["head"]) == ("`ignore` names it", FROZEN, OUTPUT)
