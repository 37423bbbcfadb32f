"""Before a long training each model is exported as it is built."""

from __future__ import annotations

import pytest

from kdeploy.errors import ModelError
from kdeploy.pipeline.trial import FEWEST_ITEMS, check_by_trial, items_shown
from kdeploy.recipe.resolve import parse

BUILD = """
import torch
from torch import nn


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(144, 4)

    def forward(self, x):
        y = self.layer(x.flatten(1))
        return y if y.sum() > 0 else y * 2


def branching():
    return Branching()


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
"""


@pytest.fixture
def recipe(tmp_path):
    """Return a function that makes a recipe of a model that is trained for long."""
    (tmp_path / "build.py").write_text(BUILD)

    def make(name, *, epochs=10_000, **sections):
        teacher = {"build": f"build.py:{name}", "train": {"epochs": epochs}}
        given = {"data": {"name": "digits"}, "teacher": teacher, **sections}
        return parse(given, folder=tmp_path)

    return make


def test_a_model_that_cannot_become_int8_is_told_before_its_training(recipe, tiny_data):
    steps = [{"int8_ptq": {}}]
    with pytest.raises(ModelError, match=r"INT8 of the teacher, as it is built: .*traced"):
        check_by_trial(recipe("branching", compress=steps), tiny_data)
    check_by_trial(recipe("plain", compress=steps), tiny_data)


def test_a_target_that_finds_nothing_in_the_model_is_told(recipe, tiny_data):
    targets = [{"onnx": {}}, {"transformers_optimized": {}}]
    place = r"export\[1\]: `transformers_optimized` of the teacher, as it is built: .*fused"
    with pytest.raises(ModelError, match=place):
        check_by_trial(recipe("plain", export=targets), tiny_data)


def test_a_short_training_is_not_worth_a_trial(recipe, tiny_data):
    short = recipe("branching", epochs=1, compress=[{"int8_ptq": {}}])
    assert items_shown(short, len(tiny_data.train)) < FEWEST_ITEMS
    check_by_trial(short, tiny_data)


def test_all_trainings_count(recipe):
    steps = [{"prune_channels": {"ratio": 0.3, "recover": {"epochs": 2}}}, {"int8_qat": {}}]
    assert items_shown(recipe("plain", epochs=5, compress=steps), 100) == (5 + 2 + 3) * 100
