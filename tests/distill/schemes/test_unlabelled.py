"""Soft targets only, also of items that nobody labelled."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from kdeploy.distill.config import DistillConfig
from kdeploy.distill.loss_specs import loss_specs_of
from kdeploy.distill.run import distill
from kdeploy.errors import RecipeError
from kdeploy.training.fit import FitContext


@pytest.fixture
def more(tmp_path, tiny_data):
    path = tmp_path / "more.npy"
    np.save(path, np.asarray(tiny_data.test.x))
    return path


def test_learns_from_no_label_and_says_so(learn, caplog):
    with caplog.at_level(logging.WARNING):
        result = learn("unlabelled")
    assert list(result.fit.history[0].losses) == ["kd"]
    assert "`label_weight` as 0" in caplog.text


def test_the_teacher_is_asked_about_the_further_items_too(learn, more, same, tmp_path, caplog):
    context = FitContext(seed=4, cache=tmp_path / "cache")
    with caplog.at_level(logging.INFO):
        enlarged = learn("unlabelled", extra=more, context=context)
    assert "96 items of the training part, 48 more without labels" in caplog.text
    assert not same(enlarged.model, learn("unlabelled", context=context).model)
    kept = sorted(f.stat().st_size for f in (tmp_path / "cache").glob("*/0.float16"))
    assert kept == [96 * 4 * 2, (96 + 48) * 4 * 2]


def test_mixes_labelled_and_unlabelled_items(learn, more, teacher, tiny_data, tiny_model):
    result = distill(
        tiny_model(seed=2, width=4),
        teacher,
        replace(tiny_data, augment=("mixup",)),
        FitContext(),
        DistillConfig(scheme={"unlabelled": {"extra": more}}, **{"epochs": 1, "batch_size": 16}),
    )
    assert list(result.fit.history[0].losses) == ["dist"]


def test_goes_on_after_a_kill(learn, more, same, killed_and_resumed):
    options = {"extra": more, "epochs": 3}
    undisturbed = learn("unlabelled", **options)
    assert same(undisturbed.model, killed_and_resumed("unlabelled", 1, **options).model)


def test_refuses_losses_that_need_labels(learn, monkeypatch):
    def strict(losses):
        return tuple(replace(loss_spec, needs_labels=True) for loss_spec in loss_specs_of(losses))

    monkeypatch.setattr("kdeploy.distill.run.loss_specs_of", strict)
    with pytest.raises(RecipeError, match="`kd` needs the true class of each item"):
        learn("unlabelled")
