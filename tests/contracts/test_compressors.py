"""What every compressor does to a small residual network, or to a small decoder."""

from __future__ import annotations

import dataclasses
import json
from functools import cache

import pytest
import torch

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.registry import techniques
from kdeploy.store.model_io import load_model, rebuild, save_model
from kdeploy.store.references import ModelReference, build_model
from tests.tiny.compressing import Trainer, stopwatch
from tests.tiny.language import text_data, write_llama

KINDS = ("compressor",)


class Sealed:
    """A test part that nobody may look at."""

    def __getattr__(self, name):
        raise AssertionError(f"a compressor read `{name}` of the test part")


@pytest.fixture
def is_decoder(technique):
    """Tell whether the technique takes decoders only; skip where there are none."""
    found = technique.facts.get("takes") == "decoder"
    if found:
        pytest.importorskip("transformers", reason="pip install 'kdeploy[language]'")
    return found


@pytest.fixture(scope="module")
def contexts(tiny_data):
    def context_of(data):
        data = dataclasses.replace(data, test=Sealed())
        return CompressContext(data=data, seed=3, train=Trainer(data), stopwatch=stopwatch)

    return {False: context_of(tiny_data), True: context_of(text_data())}


@pytest.fixture
def context(contexts, is_decoder):
    return contexts[is_decoder]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Return the reference of a random decoder."""
    folder = cache(lambda: write_llama(tmp_path_factory.mktemp("llama")))
    return lambda: ModelReference(build=f"transformers:{folder()}")


@pytest.fixture
def network(tiny_model, llama, is_decoder):
    """Return a function that makes the model which the technique is given."""
    return (lambda: build_model(llama()).eval()) if is_decoder else tiny_model


_MADE = {}


@pytest.fixture
def compressed(network, context):
    """Return a function that compresses the network with defaults, once an attempt."""

    def make(name, attempt=1):
        if (name, attempt) not in _MADE:
            torch.manual_seed(attempt)
            _MADE[name, attempt] = compress(network(), name, {}, context)
        return _MADE[name, attempt]

    return make


def test_keeps_the_shape_of_the_output_at_any_batch_size(technique, compressed, context):
    model = compressed(technique.name)
    for count in (1, 3):
        [(x, _)] = context.batches(context.data.validation, count, 1)
        outputs = model(x)
        classes = context.data.num_classes or context.data.preprocessing.vocabulary
        assert outputs.shape == (count, *context.data.train.y.shape[1:], classes)
        assert outputs.isfinite().all()


def test_is_deterministic_under_a_seed(technique, compressed, context):
    one, two = compressed(technique.name), compressed(technique.name, attempt=2)
    assert one is not two
    assert torch.equal(one(context.example), two(context.example))


def test_leaves_the_given_model_as_it_was(technique, network, context):
    model, before = network(), network().state_dict()
    compress(model, technique.name, {}, context)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_keeps_its_promise(technique, compressed):
    ensures = technique.load().facts.get("ensures")
    assert ensures is not None, "state what the result holds: `@compressor(ensures=check)`"
    ensures(compressed(technique.name))


def test_says_in_plain_json_what_it_did(technique, network, context):
    context.report.clear()
    compress(network(), technique.name, {}, context)
    json.dumps(context.report, allow_nan=False)
    for topic, said in context.report.items():
        if isinstance(said, list):
            assert all(isinstance(row, dict) for row in said), f"{topic}: a table is rows of keys"


@pytest.mark.only(when=lambda t: t.facts.get("trains"))
def test_one_that_trains_says_for_how_long(technique):
    assert {"epochs", "learning_rate"} <= {p.name for p in technique.parameters}


def test_names_only_techniques_that_exist_as_coming_later(technique):
    assert set(technique.facts.get("before") or ()) <= set(techniques("compressor"))


def test_its_result_is_the_same_after_the_store(
    technique, compressed, context, is_decoder, llama, tmp_path, store_model
):
    model = compressed(technique.name)
    if is_decoder:
        loaded = rebuild(tmp_path, save_model(tmp_path, model, llama()), None)
    else:
        loaded = load_model(store_model(model))
    assert torch.equal(loaded(context.example), model(context.example))
