"""One aim of several, and settings that nothing looks at."""

import inspect

import pytest

from kdeploy.compress.compressors.low_rank import low_rank
from kdeploy.compress.compressors.tucker import tucker
from kdeploy.compress.low_rank_settings import ENERGY, LowRankSettings
from kdeploy.errors import RecipeError
from kdeploy.low_rank.ranks import RankTarget


def settings(*, whiten=True, **given):
    return LowRankSettings(technique="low_rank", whiten=whiten, **given)


@pytest.mark.parametrize(
    ("given", "rule", "value"),
    [
        ({}, "energy", ENERGY),
        ({"energy": 0.9}, "energy", 0.9),
        ({"rank_ratio": 0.5}, "rank_ratio", 0.5),
        ({"vbmf": True}, "vbmf", 1),
        ({"target": {"macs": 0.4}}, "macs", 0.4),
        ({"target": {"parameters": 0.3}}, "parameters", 0.3),
    ],
)
def test_the_aim_is_the_one_given(given, rule, value):
    assert settings(**given, round_to=4).rank_target() == RankTarget(
        rule=rule, value=value, round_to=4
    )


@pytest.mark.parametrize(
    "aims",
    [
        {"energy": 0.9, "rank_ratio": 0.5},
        {"vbmf": True, "target": {"macs": 0.5}},
        {"target": {"macs": 0.5, "parameters": 0.5}},
        {"target": {}},
    ],
)
def test_one_aim_is_taken(aims):
    with pytest.raises(RecipeError, match="low_rank takes one target"):
        settings(**aims).rank_target()


def test_settings_without_effect_are_said(caplog):
    settings(always=True, threads=2, whiten=False, batches=3).warn_of_those_without_effect()
    assert [record.getMessage() for record in caplog.records] == [
        "low_rank: `threads` has no effect with `always`",
        "low_rank: `batches` has no effect with `whiten: false`",
    ]
    caplog.clear()
    settings(threads=2, batches=3).warn_of_those_without_effect()
    settings(always=True, whiten=False).warn_of_those_without_effect()
    assert not caplog.records


@pytest.mark.parametrize("technique", [low_rank, tucker])
def test_the_defaults_are_those_of_the_techniques(technique):
    parameters = inspect.signature(technique).parameters
    for name, parameter in inspect.signature(LowRankSettings).parameters.items():
        if parameter.default is not parameter.empty:
            assert parameters[name].default == parameter.default
