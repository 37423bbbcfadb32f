"""Assistants: a chain from the teacher over assistants to the student."""

from __future__ import annotations

import logging

import pytest
from torch import nn

from kdeploy.errors import UnknownName
from kdeploy.training.fit import FitContext
from tests.distill.schemes.warnings_of_schemes import said_of_schemes

MODELS = [{"build": "large"}, {"build": "middle"}]


@pytest.fixture
def built(tiny_model):
    return {"large": tiny_model(seed=11, width=9), "middle": tiny_model(seed=12, width=6)}


def test_every_link_is_trained_and_every_assistant_measured(learn, built, tmp_path, caplog):
    context = FitContext(seed=4, work=tmp_path)
    with caplog.at_level(logging.WARNING):
        result = learn("assistants", context=context, built=built, models=MODELS)
    folders = {path.name for path in tmp_path.iterdir()}
    assert folders == {"assistant-1", "assistant-2", "student"}
    assert list(result.accuracies) == ["models[0]", "models[1]"]
    assert not said_of_schemes(caplog)


def test_the_student_learns_from_the_last_assistant(learn, built, same):
    chain = learn("assistants", built=built, models=MODELS[1:])
    assert not same(chain.model, learn("offline").model)


def test_without_assistants_the_teacher_teaches_and_that_is_said(learn, same, caplog):
    with caplog.at_level(logging.WARNING):
        alone = learn("assistants")
    assert same(alone.model, learn("offline").model)
    assert "no `models`" in caplog.text


def test_warns_of_a_chain_that_grows(learn, built, caplog):
    with caplog.at_level(logging.WARNING):
        learn("assistants", built=built, models=MODELS[::-1], epochs=1)
    assert [record.args[0] for record in said_of_schemes(caplog)] == ["models[1]"]


@pytest.mark.parametrize("after", [1, 3])
def test_goes_on_after_a_kill_in_any_link(after, learn, built, same, killed_and_resumed):
    options = {"built": built, "models": MODELS[1:]}
    undisturbed = learn("assistants", **options)
    resumed = killed_and_resumed("assistants", after, **options)
    assert same(undisturbed.model, resumed.model)
    assert undisturbed.accuracies == resumed.accuracies


def test_refuses_losses_that_do_not_fit_a_later_link_before_any_work(learn, built, tmp_path):
    built["middle"].blocks[1] = nn.Sequential(built["middle"].blocks[1])
    hints = {"hints": {"layers": {"blocks.1.conv2": "blocks.1.conv2"}}}
    with pytest.raises(UnknownName, match=r"blocks\.1\.conv2"):
        learn(
            "assistants",
            built=built,
            models=MODELS,
            losses=[hints],
            context=FitContext(work=tmp_path),
        )
    assert not list(tmp_path.iterdir())
