from __future__ import annotations

import numpy as np
import pytest

from kdeploy.bench.accuracy import CHUNK, evaluate, predict
from kdeploy.classes import NO_CLASS
from kdeploy.data.load import load
from kdeploy.errors import ModelError
from kdeploy.tasks import class_logits
from kdeploy.tasks.class_logits import judged, log_likelihood
from kdeploy.tasks.contract import metrics_for
from tests.tiny.text import VOCABULARY, sequences


@pytest.fixture
def loaded(data):
    return load(data)


def _infer(batch):
    """Logits of three classes from the first values of each item."""
    return batch.reshape(len(batch), -1)[:, :3]


def test_judges_every_test_item_once(loaded):
    expected = _infer(np.asarray(loaded.test.x)).argmax(axis=1)
    metrics, predicted = evaluate(_infer, loaded, batch_size=1)
    np.testing.assert_array_equal(predicted, expected)
    assert metrics["accuracy.top1"] == np.mean(expected == loaded.test.y)
    assert set(metrics) == {"accuracy.top1", "accuracy.f1_macro"}


def test_a_file_that_takes_one_batch_size_gets_it(loaded):
    sizes = []

    def fixed(batch):
        sizes.append(len(batch))
        if len(batch) != 4:
            raise ModelError("takes four")
        return _infer(batch)

    _, predicted = evaluate(fixed, loaded, batch_size=4)
    assert sizes == [CHUNK] + [4] * 18
    np.testing.assert_array_equal(predicted, predict(_infer, loaded, chunk=70)[0])


def test_a_family_is_every_metric_of_that_beginning():
    classes = np.array([0, 1, 2])
    assert judged(metrics_for("classification", family="agreement"), classes, classes) == {
        "agreement.top1": 1.0
    }


def test_a_language_model_is_judged_on_the_tokens_that_count():
    data = sequences()
    counts = data.test.y >= 0

    def infer(batch):
        """Logits that know the next id, and are unsure of id 3 only."""
        return 20.0 * np.eye(VOCABULARY)[(batch + 1) % VOCABULARY] * (batch != 3)[..., None]

    metrics, predicted = evaluate(infer, data, batch_size=1)
    assert predicted.shape == (counts.sum(),)
    is_unsure = (data.test.x == 3)[counts]
    assert metrics["accuracy.top1"] == pytest.approx(1 - is_unsure.mean())
    expected = VOCABULARY ** is_unsure.mean()
    assert metrics["perplexity"] == pytest.approx(expected, rel=1e-6)


def test_a_log_likelihood_is_exact_for_large_logits():
    logits = np.array([[1000.0, 1000.0], [0.0, -1000.0]], np.float32)
    found = log_likelihood(logits, np.array([0, 1]))
    np.testing.assert_allclose(found, [np.log(0.5), -1000.0])


def test_a_log_likelihood_is_the_same_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(40, 7)).astype(np.float32), rng.integers(0, 7, 40)
    whole = log_likelihood(logits, labels)
    monkeypatch.setattr(class_logits, "MOST_EXACT", 21)
    np.testing.assert_array_equal(log_likelihood(logits, labels), whole)


def test_answers_of_no_numbers_are_no_class_and_give_no_metric(loaded):
    def broken(batch):
        logits = np.array(_infer(batch))
        logits[0] = np.nan
        return logits

    metrics, predicted = evaluate(broken, loaded, batch_size=1)
    assert metrics == {}
    assert predicted[0] == NO_CLASS
    assert (predicted[1:CHUNK] != NO_CLASS).all()
