"""A dynamic model made of files and data: decided on what runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdeploy.data.contract import Dataset, Split
from kdeploy.dynamic.calibration import Promise
from kdeploy.dynamic.contract import DynamicContext
from kdeploy.dynamic.run import answers, make_dynamic
from kdeploy.errors import ModelError
from kdeploy.preprocessing import Preprocessing
from kdeploy.runtimes.dynamic_file import read_dynamic
from tests.tiny.dynamic import FEATURES, weights, write_linear

PROMISE = Promise(risk=0.05, confidence=0.9)


@pytest.fixture
def data():
    x = np.random.default_rng(0).normal(size=(400, FEATURES)).astype(np.float32)
    part = Split(x=x, y=(x @ weights(2)).argmax(1))
    return Dataset(
        name="linear",
        train=part,
        validation=part,
        test=part,
        preprocessing=Preprocessing(shape=(FEATURES,), classes=("a", "b", "c")),
        fingerprint="linear-1",
    )


@pytest.fixture
def context(tmp_path):
    near = weights(2) + 0.4 * weights(3)
    return DynamicContext(
        files={
            "student": write_linear(tmp_path / "s.onnx", near),
            "teacher": write_linear(tmp_path / "t.onnx", weights(2)),
        }
    )


def make(context, path, data, promise=PROMISE):
    return make_dynamic("cascade", {}, context, path, data, promise)


def test_writes_what_it_returns(context, data, tmp_path):
    path = tmp_path / "m.dynamic"
    made = make(context, path, data)
    assert read_dynamic(path) == made
    assert 0 < made.parts[0].threshold < 1
    assert made.parts[1].threshold is None
    found = made.calibration
    assert (found["items"], found["temperature_items"]) == (320, 80)
    assert found["accuracy_of_last"] == 1.0
    assert found["accuracy"] == 1 - found["lost_items"] / 320


def test_is_decided_on_what_the_files_answer(context, data, tmp_path):
    path = tmp_path / "m.dynamic"
    make(context, path, data)
    first, last = answers(path, data)
    np.testing.assert_allclose(last, data.validation.x @ weights(2), rtol=1e-4, atol=1e-5)
    assert first.shape == last.shape


def test_labels_of_tokens_are_refused(context, data, tmp_path):
    of_tokens = Split(x=data.validation.x, y=np.zeros((400, 2), np.int64))
    with pytest.raises(ModelError, match="by the probability of an item's class"):
        make(context, tmp_path / "m.dynamic", replace(data, validation=of_tokens))


def test_too_few_items_are_refused_before_anything_is_written(context, data, tmp_path):
    with pytest.raises(ModelError, match="validation items, and there are 400"):
        make(context, tmp_path / "m.dynamic", data, Promise(risk=0.001, confidence=0.9))
    assert not (tmp_path / "m.dynamic").exists()
