"""Losses of a recipe: read, checked, named."""

from __future__ import annotations

import pytest

from kdeploy.distill.config import DistillConfig
from kdeploy.distill.loss_specs import loss_specs_of
from kdeploy.errors import RecipeError, UnknownName
from kdeploy.registry import check

LAYERS = {"blocks.0": "blocks.1"}


def test_splits_weight_and_layers_from_a_loss_s_own_parameters():
    kd, hints = loss_specs_of(
        DistillConfig(
            losses=[{"kd": {"temperature": 2, "weight": 9}}, {"hints": {"layers": LAYERS}}]
        ).losses
    )
    assert (kd.name, kd.weight.at(0), kd.layers, kd.adapt) == ("kd", 9.0, {}, False)
    assert kd.parameters == {"temperature": 2.0, "standardize": False}
    assert (hints.name, hints.weight.at(0), hints.layers, hints.adapt) == (
        "hints",
        1.0,
        LAYERS,
        True,
    )


def test_a_loss_without_anything_has_its_defaults():
    (kd,) = loss_specs_of(DistillConfig(losses=[{"kd": None}]).losses)
    assert kd.parameters["temperature"] == 4.0


def test_the_same_loss_twice_has_two_names():
    names = [
        loss_spec.name
        for loss_spec in loss_specs_of(
            DistillConfig(losses=[{"kd": {}}, {"kd": {"temperature": 1}}]).losses
        )
    ]
    assert names == ["kd", "kd#2"]


def test_a_weight_of_zero_is_left_out_with_a_warning(caplog):
    assert loss_specs_of(DistillConfig(losses=[{"kd": {"weight": 0}}]).losses) == ()
    assert "losses[0].kd has weight 0" in caplog.text


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        ([{"kdd": {}}], UnknownName, "no loss `kdd`"),
        ([{"kd": {"temprature": 1}}], UnknownName, "no key `temprature` in distill.losses.0..kd"),
        ([{"kd": {"layers": LAYERS}}], UnknownName, "no key `layers`"),
        ([{"kd": {"temperature": 0}}], RecipeError, "losses.0..kd.temperature"),
        ([{"kd": {"weight": -1}}], RecipeError, "losses.0..kd.weight"),
        ([{"kd": {"weight": float("nan")}}], RecipeError, "losses.0..kd.weight"),
        ([{"hidden_states": {}}], RecipeError, "losses.0..hidden_states.layers"),
        ([{"hints": {"layers": {}}}], RecipeError, "losses.0..hints.layers"),
        ([{"kd": {}, "hints": {}}], RecipeError, "losses.0.: expected one technique"),
        ([7], RecipeError, "losses.0: input should be a valid dictionary"),
    ],
)
def test_refuses_what_makes_no_sense(losses, error, message):
    with pytest.raises(error, match=message):
        check(DistillConfig, {"losses": losses}, where="distill")
