"""compress(): the checks around any step, with techniques made up here."""

import dataclasses
import types

import numpy as np
import pytest
import torch
from torch import nn

import kdeploy.compress.run as run
from kdeploy.compress.contract import CompressContext
from kdeploy.data.contract import Dataset, Preprocessing, Split
from kdeploy.errors import ModelError, OrderError, RecipeError, UnknownName
from kdeploy.registry import Parameter


@pytest.fixture
def context():
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    split = Split(x=x, y=np.zeros(8, np.int64))
    preprocessing = Preprocessing(shape=(3,), classes=("a", "b"))
    return CompressContext(
        data=Dataset(
            name="made",
            train=split,
            validation=split,
            test=split,
            preprocessing=preprocessing,
            fingerprint="0",
        ),
        seed=5,
    )


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))


@pytest.fixture
def technique(monkeypatch):
    """Return a function that registers `step` as the only technique."""

    def put(step, ensures=None):
        step.facts = {"ensures": ensures}
        parameter = Parameter(
            name="ratio",
            annotation="Annotated[float, Field(gt=0, lt=1)]",
            default=0.5,
            doc="A fraction.",
        )
        found = types.SimpleNamespace(parameters=(parameter,), load=lambda: step)
        monkeypatch.setattr(run, "find", lambda kind, name: found)
        return lambda model, context, **given: run.compress(model, "made", given, context)

    return put


def noisy(model, context, *, ratio):
    with torch.no_grad():
        model[0].weight.add_(ratio * torch.randn(4, 3))
    return model


def test_gives_a_changed_copy_and_leaves_the_model(technique, model, context):
    before = model[0].weight.clone()
    result = technique(noisy)(model, context)
    assert torch.equal(model[0].weight, before)
    assert not torch.equal(result[0].weight, before)
    assert all(module.training for module in result.modules())


def test_is_the_same_under_the_context_seed_whatever_the_global_one(technique, model, context):
    compress = technique(noisy)
    torch.manual_seed(1)
    one = compress(model, context)
    state = torch.get_rng_state()
    two = compress(model, context)
    assert torch.equal(one[0].weight, two[0].weight)
    assert torch.equal(torch.get_rng_state(), state)
    other = compress(model, dataclasses.replace(context, seed=6))
    assert not torch.equal(one[0].weight, other[0].weight)


def test_parameters_are_checked_and_defaults_filled_in(technique, model, context):
    seen = []
    compress = technique(lambda model, context, *, ratio: seen.append(ratio) or model)
    compress(model, context)
    compress(model, context, ratio=0.25)
    assert seen == [0.5, 0.25]
    with pytest.raises(UnknownName, match="ratio"):
        compress(model, context, ration=0.25)
    with pytest.raises(RecipeError, match=r"compress\.made\.ratio"):
        compress(model, context, ratio=2)


def test_an_unknown_technique_names_the_nearest(model, context):
    with pytest.raises(UnknownName, match="int8_ptq"):
        run.compress(model, "int8_ptk", {}, context)


def broken(model, context, *, ratio):
    model[2] = nn.Linear(5, 2)
    return model


def infinite(model, context, *, ratio):
    model[2].weight.data.fill_(float("nan"))
    return model


def wider(model, context, *, ratio):
    model[2] = nn.Linear(4, 3)
    return model


def raising(model, context, *, ratio):
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (broken, "cannot run"),
        (infinite, "infinite or not a number"),
        (wider, r"from \(2, 2\) to \(2, 3\)"),
        (raising, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_result_is_an_error_that_names_the_step(technique, model, context, step, text):
    with pytest.raises(ModelError, match=rf"compress\.made(.|\n)*{text}"):
        technique(step)(model, context)


def test_a_broken_promise_names_the_step(technique, model, context):
    def ensures(model):
        assert isinstance(model, nn.Linear), "it is no Linear"

    with pytest.raises(ModelError, match=r"compress\.made does not hold .* it is no Linear"):
        technique(noisy, ensures)(model, context)


def test_errors_of_ours_pass_as_they_are(technique, model, context):
    def refusing(model, context, *, ratio):
        raise OrderError("too late", hint="earlier")

    with pytest.raises(OrderError, match="too late"):
        technique(refusing)(model, context)


def test_a_model_that_does_not_fit_the_data_is_refused(technique, context):
    with pytest.raises(ModelError, match=r"cannot run on items of shape \(3,\)"):
        technique(noisy)(nn.Sequential(nn.Linear(7, 2)), context)
