from __future__ import annotations

import numpy as np
import pytest

from kdeploy.bench.accuracy import CHUNK, evaluate, judged, predict
from kdeploy.data.load import load
from kdeploy.errors import ModelError


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
    assert judged("agreement", classes, classes) == {"agreement.top1": 1.0}
