"""What a model answers, and how often it is right."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.data.contract import Split
from kdeploy.errors import ModelError
from kdeploy.training.predict import accuracy, check_outputs, predict
from tests.tiny.text import Classifier, Next, items, sequences


def test_predicts_in_eval_mode_and_leaves_the_model_as_it_was(tiny_model, tiny_data):
    model = nn.Sequential(tiny_model(), nn.Dropout(0.9)).train()
    x = tiny_data.test.x
    found = predict(model, x, tiny_data.preprocessing, batch_size=10)
    assert model.training
    model.eval()
    expected = model(torch.from_numpy(tiny_data.preprocessing.apply(x))).argmax(1).numpy()
    assert found.dtype == np.int64
    assert np.array_equal(found, expected)


def test_a_model_that_predicted_can_be_trained(tiny_model, tiny_data):
    model = tiny_model()
    predict(model, tiny_data.test.x, tiny_data.preprocessing)
    model(torch.rand(2, 1, 12, 12)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_accuracy_is_the_fraction_that_is_right(tiny_model, tiny_data):
    model, part = tiny_model(), tiny_data.test
    answers = predict(model, part.x, tiny_data.preprocessing)
    half_wrong = np.where(np.arange(len(part)) % 2, answers, (answers + 1) % 4)
    assert accuracy(model, Split(x=part.x, y=half_wrong), tiny_data.preprocessing) == 0.5


def test_an_empty_part_has_no_accuracy(tiny_model, tiny_data):
    empty = Split(x=tiny_data.test.x[:0], y=tiny_data.test.y[:0])
    assert predict(tiny_model(), empty.x, tiny_data.preprocessing).shape == (0,)
    assert isnan(accuracy(tiny_model(), empty, tiny_data.preprocessing))


def test_refuses_another_number_of_classes(tiny_model, tiny_data):
    with pytest.raises(ModelError, match=r"the teacher has 9 classes, .* has 4: labels 0\.\.3"):
        check_outputs(tiny_model(classes=9), tiny_data, name="teacher")


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (Pair(), r"a tuple of 2 \(.*test_predict\.py:\d+, in forward: `return x, x`\)"),
        (nn.Identity(), r"\(2, 1, 12, 12\); expected logits \(2, 4\)"),
    ],
)
def test_refuses_what_are_no_logits(model, found, tiny_data):
    with pytest.raises(ModelError, match=f"the teacher returns {found}"):
        check_outputs(model, tiny_data, name="teacher")


def test_a_language_model_is_asked_for_every_token():
    data, model = sequences(), Next()
    found = predict(model, data.test.x, data.preprocessing)
    assert found.shape == data.test.y.shape
    counts = data.test.y >= 0
    expected = (found == data.test.y).sum() / counts.sum()
    assert accuracy(model, data.test, data.preprocessing) == pytest.approx(expected)
    check_outputs(model, data, name="model")


def test_a_classifier_of_items_cannot_answer_for_tokens():
    with pytest.raises(ModelError, match=r"expected logits \(2, 6, \d+\)"):
        check_outputs(Classifier(), sequences(), name="model")
    with pytest.raises(ModelError, match=r"expected logits \(2, \d+\)"):
        check_outputs(Next(), items(), name="model")


def test_an_answer_of_no_numbers_is_no_class(tiny_data):
    class Broken(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 4), float("nan"))

    with pytest.raises(ModelError, match="the student answers NaN or infinity to test item 0"):
        accuracy(Broken(), tiny_data.test, tiny_data.preprocessing, name="student", part="test")
