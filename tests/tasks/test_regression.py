from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from kdeploy.data.contract import TaskReference
from kdeploy.data.load import DataReference, load
from kdeploy.errors import DataError, ModelError
from kdeploy.tasks.contract import task_of

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (40, 1, 6, 6), dtype=np.uint8)
Y = np.stack([X.mean(axis=(1, 2, 3)), RNG.normal(300, 5, 40)], axis=1)


def regression(tmp_path, y=Y, test_y=None, **parameters):
    np.savez(tmp_path / "train.npz", x=X, y=y)
    np.savez(tmp_path / "test.npz", x=X[::-1], y=(y if test_y is None else test_y)[::-1])
    files = {part: str(tmp_path / f"{part}.npz") for part in ("train", "test")}
    task = TaskReference(name="regression", parameters=parameters)
    return load(DataReference(name="arrays", parameters=files, task=task))


def test_a_model_answers_in_standard_deviations_and_is_judged_in_the_own_unit(tmp_path):
    data = regression(tmp_path)
    task = task_of(data)
    answer = (data.test.y - data.train.y.mean(0)) / data.train.y.std(0)
    found = task.predictions(answer, data.test.y)
    # The statistics are those of all of train, its validation part too.
    mean, std = Y.mean(axis=0), Y.std(axis=0)
    np.testing.assert_allclose(found, answer * std + mean, rtol=1e-5)


def test_the_loss_is_zero_at_the_targets_in_either_unit(tmp_path):
    for standardize in (True, False):
        data = regression(tmp_path, standardize=standardize)
        task, y = task_of(data), torch.from_numpy(data.train.y)
        answer = (y - torch.tensor(Y.mean(0))) / torch.tensor(Y.std(0)) if standardize else y
        assert float(task.label_loss(answer.float(), y)) == pytest.approx(0, abs=1e-8)
        assert float(task.label_loss(answer.float() + 0.1, y)) > 0


def test_metrics_are_those_of_scikit_learn(tmp_path):
    task = task_of(regression(tmp_path, standardize=False))
    predicted = Y + RNG.normal(size=Y.shape)
    found = task.metrics(predicted, Y)
    assert next(iter(found)) == "regression.mae"
    assert found["regression.mae"] == pytest.approx(mean_absolute_error(Y, predicted))
    assert found["regression.r2"] == pytest.approx(r2_score(Y, predicted))
    whole = root_mean_squared_error(Y.ravel(), predicted.ravel())
    assert found["regression.rmse"] == pytest.approx(whole)


def test_one_number_an_item_keeps_its_axis(tmp_path):
    data = regression(tmp_path, y=Y[:, 0])
    assert data.train.y.shape[1:] == (1,)
    assert any("taken as 1 numbers" in note for note in data.notes)
    with pytest.raises(ModelError, match=r"returns \(2,\); regression expects \(items, 1\)"):
        task_of(data).check_answer(torch.zeros(2), data, who="the student")


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.where(np.arange(40)[:, None] == 3, np.nan, Y), "target nan at item 3, place 0"),
        (np.where(np.arange(40)[:, None] == 3, 1e300, Y), "no finite number in float32"),
        (np.concatenate([Y, np.ones((40, 1))], 1), "column 2 of the targets is always 1"),
        (np.zeros((40, 2, 2, 2)), r"regression takes \(N,\), \(N, D\)"),
        (np.array(["a", "b"] * 20), "which are no numbers"),
    ],
)
def test_targets_that_cannot_be_are_named(tmp_path, y, message):
    with pytest.raises(DataError, match=message) as caught:
        regression(tmp_path, y=y)
    assert caught.value.hint


def test_parts_of_other_widths_are_refused(tmp_path):
    with pytest.raises(DataError, match="targets have 1 numbers, those of train have 2"):
        regression(tmp_path, test_y=Y[:, :1])
