"""Losses that stop a training, and those that do not."""

from math import inf, nan
from types import SimpleNamespace

import pytest
import torch

from kdeploy.errors import TrainingDiverged
from kdeploy.training.divergence_checks import check_finite, check_used, check_weights

SETTINGS = SimpleNamespace(epochs=5, learning_rate=0.1, batch_size=16)


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_a_component_has_to_be_finite(value):
    check_finite({"kd": 1e30}, 0, SETTINGS)
    with pytest.raises(TrainingDiverged, match=r"`kd` became .* in epoch 1 of 5"):
        check_finite({"labels": 1.0, "kd": value}, 0, SETTINGS)


def test_a_component_that_is_zero_all_epoch_has_to_be_allowed_to():
    losses = {"labels": 1.0, "kd": 0.0}
    check_used(losses, 1, SETTINGS, may_be_zero={"kd"})
    with pytest.raises(TrainingDiverged, match="`kd` was exactly zero over all of epoch 2 of 5"):
        check_used(losses, 1, SETTINGS, may_be_zero=())
    one = SimpleNamespace(epochs=5, learning_rate=0.1, batch_size=1)
    with pytest.raises(TrainingDiverged, match="zero") as caught:
        check_used(losses, 1, one, may_be_zero=())
    assert "`batch_size: 2`" in caught.value.hint


@pytest.mark.parametrize("value", [nan, inf, -1e20])
def test_a_last_step_that_threw_the_weights_away_is_seen(value):
    model = torch.nn.Linear(2, 3)
    check_weights(model, 0, SETTINGS)
    with torch.no_grad():
        model.bias[1] = value
    with pytest.raises(
        TrainingDiverged, match=r"the largest weight of `bias` became .* in epoch 1"
    ):
        check_weights(model, 0, SETTINGS)
