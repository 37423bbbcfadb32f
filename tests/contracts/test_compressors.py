"""What every compressor does to a small residual network."""

from __future__ import annotations

import dataclasses
import json
from functools import cache

import pytest
import torch

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.registry import techniques
from kdeploy.store.model_io import load_model
from tests.tiny.compressing import Trainer, stopwatch

KINDS = ("compressor",)


class Sealed:
    """A test part that nobody may look at."""

    def __getattr__(self, name):
        raise AssertionError(f"a compressor read `{name}` of the test part")


@pytest.fixture(scope="module")
def context(tiny_data):
    data = dataclasses.replace(tiny_data, test=Sealed())
    return CompressContext(data=data, seed=3, train=Trainer(data), stopwatch=stopwatch)


@pytest.fixture(scope="module")
def compressed(tiny_model, context):
    """Return a function that compresses the tiny network with defaults, once an attempt."""

    @cache
    def make(name, attempt=1):
        torch.manual_seed(attempt)
        return compress(tiny_model(), name, {}, context)

    return make


def test_keeps_the_shape_of_the_output_at_any_batch_size(technique, compressed, context):
    model = compressed(technique.name)
    for count in (1, 3):
        [(x, _)] = context.batches(context.data.validation, count, 1)
        outputs = model(x)
        assert outputs.shape == (count, context.data.num_classes)
        assert outputs.isfinite().all()


def test_is_deterministic_under_a_seed(technique, compressed, context):
    one, two = compressed(technique.name), compressed(technique.name, attempt=2)
    assert one is not two
    assert torch.equal(one(context.example), two(context.example))


def test_leaves_the_given_model_as_it_was(technique, tiny_model, context):
    model, before = tiny_model(), tiny_model().state_dict()
    compress(model, technique.name, {}, context)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_keeps_its_promise(technique, compressed):
    ensures = technique.load().facts.get("ensures")
    assert ensures is not None, "state what the result holds: `@compressor(ensures=check)`"
    ensures(compressed(technique.name))


def test_says_in_plain_json_what_it_did(technique, tiny_model, context):
    context.report.clear()
    compress(tiny_model(), technique.name, {}, context)
    json.dumps(context.report, allow_nan=False)
    for topic, said in context.report.items():
        if isinstance(said, list):
            assert all(isinstance(row, dict) for row in said), f"{topic}: a table is rows of keys"


@pytest.mark.only(when=lambda t: t.facts.get("trains"))
def test_one_that_trains_says_for_how_long(technique):
    assert {"epochs", "learning_rate"} <= {p.name for p in technique.parameters}


def test_names_only_techniques_that_exist_as_coming_later(technique):
    assert set(technique.facts.get("before") or ()) <= set(techniques("compressor"))


def test_its_result_is_the_same_after_the_store(technique, compressed, context, store_model):
    model = compressed(technique.name)
    loaded = load_model(store_model(model))
    assert torch.equal(loaded(context.example), model(context.example))
