"""The options of a training: checked once, documented, none of them forgotten."""

from __future__ import annotations

import pytest

from kdeploy.errors import InputError
from kdeploy.registry import check
from kdeploy.training.config import TrainingConfig


def test_what_is_left_out_has_its_default():
    config = check(TrainingConfig, {"epochs": 3}, where="train")
    assert (config.epochs, config.optimizer, config.ema) == (3, None, None)
    assert config.training() == {**TrainingConfig().training(), "epochs": 3}


def test_each_option_says_what_it_is():
    assert all(field.description for field in TrainingConfig.model_fields.values())


@pytest.mark.parametrize(
    ("key", "value"),
    [("epochs", -1), ("learning_rate", 0), ("schedule", "steps"), ("ema", 1.0), ("momentum", 1.0)],
)
def test_values_without_sense_are_refused(key, value):
    with pytest.raises(InputError, match=f"train.{key}"):
        check(TrainingConfig, {key: value}, where="train")
