"""Each layer that is as wide as before is told with its reason."""

import copy

import pytest
import torch

from kdeploy.pruning.coupling import LayerDim, find_groups
from kdeploy.pruning.removal import all_channels, remove_channels
from kdeploy.pruning.skipped_layers import FROZEN, OUTPUT, UNEVEN, skipped_layers
from kdeploy.pruning.tracing import traceable

EXAMPLE = torch.rand(2, 3, 8, 8)


@pytest.fixture
def residual(make, example):
    model = make("Residual")
    with traceable(model):
        groups = find_groups(model, example, is_protected=lambda name: name == "down")
    return model, groups


def rows(model, pruned, **given):
    options = {"is_protected": lambda name: name == "down", "round_to": 8, **given}
    return {r["layer"]: r["reason"] for r in skipped_layers(model, pruned, EXAMPLE, **options)}


def test_reasons_are_the_pattern_the_output_and_the_rounding(residual):
    model, groups = residual
    pruned = copy.deepcopy(model)
    inner = [group for group in groups if LayerDim("inner", "out") in group.channels]
    remove_channels(pruned, all_channels(inner[:8]))
    found = rows(model, pruned, found=groups, ranked=groups)
    rounding = found["stem"]
    assert found == {
        "stem": rounding,
        "outer": rounding,
        "down": "`ignore` names it",
        "head": OUTPUT,
    }
    assert "round to 8" in rounding


def test_what_balance_left_out_is_uneven(residual):
    model, groups = residual
    ranked = [group for group in groups if LayerDim("inner", "out") not in group.channels]
    assert rows(model, model, found=groups, ranked=ranked)["inner"] == UNEVEN


def test_what_is_joined_to_a_layer_that_stays_is_not_called_the_output(make):
    model = make("Residual")
    with traceable(model):
        groups = find_groups(model, EXAMPLE, is_protected=lambda name: name == "stem")
    found = rows(
        model, model, found=groups, ranked=groups, is_protected=lambda name: name == "stem"
    )
    assert (found["stem"], found["outer"], found["head"]) == ("`ignore` names it", FROZEN, OUTPUT)
