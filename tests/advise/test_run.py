"""Advice on a tiny network, the whole way: what is written can be run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdeploy.advise.facts import facts_of
from kdeploy.advise.run import advise
from kdeploy.errors import KdeployError
from kdeploy.gate import parse_gates
from kdeploy.pipeline.log import NullListener
from kdeploy.pipeline.single import Source
from kdeploy.recipe.read import load
from kdeploy.recipe.resolve import data_reference, task_reference
from kdeploy.store.references import ModelReference
from kdeploy.torch_module.complexity import count_macs, count_parameters
from tests.conftest import TINY_BUILD


@pytest.fixture(scope="module")
def source(tmp_path_factory, tiny_data):
    folder = tmp_path_factory.mktemp("advise")
    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(folder / f"{name}.npz", x=part.x, y=part.y)
    given = {"name": "arrays", "train": "train.npz", "test": "test.npz"}
    return Source(
        reference=f"{TINY_BUILD}:net",
        as_built=True,
        args={"width": 16},
        data=data_reference({**given, "validation_fraction": 0.25}, folder, 0),
    )


@pytest.fixture(scope="module")
def told(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("advice")
    targets = parse_gates(["latency.p50: 1.2x", "accuracy.top1: -50pp"])
    with pytest.MonkeyPatch.context() as patched:  # on a busy machine the minute may be too short
        patched.setattr("kdeploy.advise.measured.SECONDS", 3600.0)
        return advise(source, targets, out, NullListener()), out


def test_two_or_three_recipes_are_written_that_can_be_read(told):
    advice, out = told
    assert 2 <= len(advice.recipes) <= 3
    for number, one in enumerate(advice.recipes, start=1):
        assert one.file == out / f"recipe-{number}-{one.rule.name}.yaml"
        recipe = load(one.file)
        assert [gate.text for gate in recipe.gates] == ["latency.p50: 1.2x", "accuracy.top1: -50pp"]
        assert "measured here" in one.file.read_text()


def test_what_was_measured_is_told(told):
    advice, out = told
    document = json.loads((out / "advice.json").read_text())
    assert set(document["measured"]["latency.p50"]) >= {"float", "int8"}
    assert all(seconds > 0 for seconds in document["measured"]["latency.p50"].values())
    assert document["facts"]["parameters"] == advice.measured.variants["float"].parameters
    assert advice.measured.lost("int8") is not None
    assert [r["name"] for r in document["recipes"]] == [r.rule.name for r in advice.recipes]


def test_facts_are_those_of_the_network(tiny_model):
    import torch

    model, example = tiny_model(width=16), torch.zeros(1, 1, 12, 12)
    facts = facts_of(model, example, ModelReference(build=f"{TINY_BUILD}:net", args={"width": 16}))
    assert facts.parameters == count_parameters(model)
    assert facts.macs == count_macs(model, example)
    assert facts.students["half"] == {"width": 8}
    assert 0 <= facts.memory_bound <= 1
    assert facts.narrowest <= facts.widest


def test_another_task_is_refused_in_a_sentence(source, tmp_path):
    from dataclasses import replace

    task = task_reference("multi_label")
    other = replace(source, data=replace(source.data, task=task))
    with pytest.raises(KdeployError) as caught:
        advise(other, (), tmp_path, NullListener())
    assert caught.value.hint
