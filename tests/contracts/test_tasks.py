"""What every task is: perfect is best, items have no order, bad targets are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdeploy.data.contract import TaskReference
from kdeploy.data.load import DataReference, load
from kdeploy.distill.loss_specs import check_fit
from kdeploy.errors import DataError, ModelError, RecipeError
from kdeploy.measurement import METRICS
from kdeploy.tasks.contract import facts_of, has_item_scores, kin, metrics_for, task_of
from tests.tiny.tasks import ALPHABET, arrays_of

KINDS = ("task",)
# Detection comes with datasets and tests of its own.
PARAMETERS = {"ctc": {"alphabet": ALPHABET}}
BUILT = {
    "classification",
    "regression",
    "segmentation",
    "multi_label",
    "keypoint_heatmaps",
    "embedding",
    "ctc",
    "tokens",
    "language_modeling",
}


def has_tiny_data(technique):
    return technique.name in BUILT


def loaded(task, folder, x=None, y=None, **parameters):
    """Return the tiny data of a task, of which items or targets of train may be others."""
    own, other = arrays_of(task), arrays_of(task, seed=1)
    np.savez(folder / "train.npz", x=own[0] if x is None else x, y=own[1] if y is None else y)
    np.savez(folder / "test.npz", x=other[0], y=other[1])
    files = {part: str(folder / f"{part}.npz") for part in ("train", "test")}
    given = TaskReference(name=task, parameters={**PARAMETERS.get(task, {}), **parameters})
    return load(DataReference(name="arrays", parameters=files, task=given))


def perfect(data):
    """Return an answer of a model that knows every test target."""
    task, y = task_of(data), data.test.y
    if task.name == "regression":
        known = task.to_dict()["found"]
        return ((y - known["mean"]) / known["std"]).astype(np.float32)
    if task.name == "multi_label":
        return np.where(y > 0, 9.0, -9.0).astype(np.float32)
    if task.name == "segmentation":
        return 9 * np.eye(256, dtype=np.float32)[y].transpose(0, 3, 1, 2)[:, :3]
    if task.name == "keypoint_heatmaps":
        return task._drawn(torch.from_numpy(y), torch.zeros(1, 1, 16, 16)).numpy()
    if task.name == "embedding":
        return np.eye(8, dtype=np.float32)[y]
    if task.name == "ctc":
        spread = np.zeros((len(y), 2 * y.shape[1] + 1), np.int64)
        spread[:, 1::2] = y + 1  # a blank between, and -1, which fills up, is one too
        return 9 * np.eye(len(ALPHABET) + 1, dtype=np.float32)[spread]
    return 9 * np.eye(data.num_classes, dtype=np.float32)[np.maximum(y, 0)]


@pytest.mark.only(when=has_tiny_data)
def test_the_scores_of_items_are_best_where_the_answer_is(technique, tmp_path):
    data = loaded(technique.name, tmp_path)
    task, y = task_of(data), data.test.y
    right, expected = perfect(data), task.expected(y)
    scores = task.item_scores(task.predictions(right, y), expected)
    assert has_item_scores(data)
    assert scores.ndim == 1
    assert scores.dtype in (bool, np.float64)
    assert len(scores) >= len(y)  # tokens are more than items
    np.testing.assert_allclose(scores.astype(float), 1.0, atol=1e-9)
    other = task.item_scores(task.predictions(right[::-1].copy(), y), expected)
    assert other.mean() < 0.9


def test_a_label_that_nobody_knows_is_neither_right_nor_wrong(tmp_path):
    data = loaded("multi_label", tmp_path)
    expected = np.array([[1, -1, 0], [-1, -1, -1], [-1, 0, 1]])
    for unknown in (0.1, 0.9):
        predictions = np.where(expected < 0, unknown, 0.9).astype(np.float32)
        scores = task_of(data).item_scores(predictions, expected)
        np.testing.assert_allclose(scores, [0.5, 0.5])


def test_a_task_of_ones_own_need_not_have_scores_of_items(tiny_data):
    older = type("Older", (), {"name": "own.py:Older"})()
    assert has_item_scores(tiny_data)
    assert not has_item_scores(replace(tiny_data, task=older))
    unlabelled = replace(tiny_data.validation, y=np.zeros(0, np.int64))
    assert not has_item_scores(replace(tiny_data, validation=unlabelled))


@pytest.mark.only(when=has_tiny_data)
def test_what_is_perfect_has_the_best_metric_and_the_score_of_one(technique, tmp_path):
    data = loaded(technique.name, tmp_path)
    task, y = task_of(data), data.test.y
    answer = perfect(data)
    predicted, expected = task.predictions(answer, y), task.expected(y)
    found = task.metrics(predicted, expected, task.log_likelihoods(answer, y))
    assert next(iter(found)) == technique.facts["metric"]
    for name, value in found.items():
        best = 1.0 if METRICS[name].better == "higher" else 0.0
        best = 1.0 if name == "perplexity" else best
        near = 0.6 if name == "embedding.spearman" else 1e-2  # cosines of a group are all alike
        assert value == pytest.approx(best, abs=near), name
    assert task.score(found) == pytest.approx(1, abs=1e-2)
    same = task.agreement(predicted, predicted)
    assert same, "every task says how far two models agree"
    for name, value in same.items():
        assert value == (1.0 if METRICS[name].better == "higher" else 0.0), name
    assert task.unreadable(predicted) is None


@pytest.mark.only(when=has_tiny_data)
def test_metrics_have_no_order_and_know_noise_from_truth(technique, tmp_path):
    data = loaded(technique.name, tmp_path)
    task, y = task_of(data), data.test.y
    rng = np.random.default_rng(0)
    answer = perfect(data)
    noise = rng.normal(size=answer.shape).astype(np.float32)
    order = rng.permutation(len(y))
    bad = task.metrics(task.predictions(noise, y), task.expected(y))
    turned = task.metrics(task.predictions(noise[order], y[order]), task.expected(y[order]))
    main = next(n for n in bad)
    assert turned[main] == pytest.approx(bad[main])
    good = task.metrics(task.predictions(answer, y), task.expected(y))
    assert task.score(good) > task.score(bad)


@pytest.mark.only(when=has_tiny_data)
def test_an_answer_without_numbers_is_told_and_has_no_metric(technique, tmp_path):
    data = loaded(technique.name, tmp_path)
    task, y = task_of(data), data.test.y
    answer = np.array(perfect(data), np.float32)
    answer[3] = np.nan
    predicted = task.predictions(answer, y)
    assert "NaN or infinite" in task.unreadable(predicted)
    assert not {n for n in task.metrics(predicted, task.expected(y)) if n != "perplexity"}


@pytest.mark.only(when=has_tiny_data)
def test_the_label_loss_falls_towards_the_truth_and_has_a_gradient(technique, tmp_path):
    data = loaded(technique.name, tmp_path)
    task = task_of(data)
    y = torch.from_numpy(np.array(data.test.y[:16]))
    right = torch.from_numpy(np.array(perfect(data)[:16]))
    wrong = torch.randn(right.shape, requires_grad=True)
    loss = task.label_loss(wrong, y)
    assert loss.ndim == 0
    assert float(task.label_loss(right, y)) < float(loss.detach())
    loss.backward()
    assert torch.isfinite(wrong.grad).all()
    assert wrong.grad.any()


@pytest.mark.only(when=has_tiny_data)
def test_says_what_outputs_do_not_fit(technique, tmp_path):
    data = loaded(technique.name, tmp_path)
    task = task_of(data)
    task.check_answer(torch.from_numpy(perfect(data)[:2]), data, who="the student")
    with pytest.raises(ModelError, match="the student returns") as caught:
        task.check_answer(torch.zeros(2, 5, 5, 5, 5), data, who="the student")
    assert caught.value.hint
    several = {"one": torch.zeros(2, 3), "other": torch.zeros(2, 3)}
    with pytest.raises(ModelError, match=r"several outputs \(`one`, `other`\)") as caught:
        task.check_answer(several, data, who="the student")
    assert caught.value.hint


def test_its_metrics_and_its_loss_exist(technique):
    facts = facts_of(technique.name)
    known = {**metrics_for(technique.name), **metrics_for(technique.name, needs="log_likelihoods")}
    assert facts["metric"] in known
    check_fit([facts["loss"]], technique.name)
    assert not facts["like"] or kin(technique.name)[1] == facts["like"]


@pytest.mark.parametrize(
    ("task", "loss"),
    [("regression", "kd"), ("classification", "regression_kd"), ("embedding", "ctc_kd")],
)
def test_a_loss_for_other_outputs_is_refused_with_those_that_fit(task, loss):
    with pytest.raises(RecipeError, match=f"the loss `{loss}` is for") as caught:
        check_fit([loss], task)
    assert facts_of(task)["loss"] in caught.value.hint


def with_value(task, value, place):
    y = arrays_of(task)[1].copy()
    y[place] = value
    return y


CUT = {
    "one channel too many": ("segmentation", np.zeros((96, 2, 16, 16), np.uint8), "takes class"),
    "a mask of another size": ("segmentation", np.zeros((96, 8, 8), np.uint8), "images of 16x16"),
    "colours": ("segmentation", np.zeros((96, 16, 16, 3), np.uint8), "takes class indices"),
    "half a class": ("segmentation", np.zeros((96, 16, 16)), "takes class indices"),
    "no pixel": ("segmentation", np.full((96, 16, 16), 255), "every pixel of the masks is 255"),
    "below none": ("segmentation", np.full((96, 16, 16), -1), "hold -1 to -1 at item 0"),
    "two of a label": ("multi_label", with_value("multi_label", 2, (4, 1)), "target 2 at item 4"),
    "one label": ("multi_label", np.zeros(96, np.int64), r"takes \(N, labels\)"),
    "a point outside": (
        "keypoint_heatmaps",
        with_value("keypoint_heatmaps", 40, (5, 1, 0)),
        "point 1 at item 5 is at",
    ),
    "visible three times": (
        "keypoint_heatmaps",
        with_value("keypoint_heatmaps", 3, (6, 0, 2)),
        "visibility 3 of point 0 at item 6",
    ),
    "points without a visibility": (
        "keypoint_heatmaps",
        np.zeros((96, 2, 2), np.float32),
        r"take \(N, points, 3\)",
    ),
    "groups of numbers": ("embedding", np.zeros(96), "number of a group"),
    "an unknown letter": ("ctc", np.array(["abz"] * 96), "`z`, which is not in the alphabet"),
    "an empty text": ("ctc", np.array(["ab", ""] * 48), "the text at item 1 is empty"),
    "a hole": ("ctc", np.tile([0, -1, 1], (96, 1)), "interrupted by -1"),
    "a place too far": ("ctc", np.full((96, 3), 7), "7 at item 0, place 0 is none of the 3"),
    "one label a text": ("tokens", np.arange(96) % 3, r"needs one for every token, \(N, tokens\)"),
    "one next word": ("language_modeling", np.arange(96) % 12, "the next id of every token"),
}


@pytest.mark.parametrize(("task", "y", "message"), CUT.values(), ids=CUT)
def test_targets_that_cannot_be_are_named_with_a_hint(tmp_path, task, y, message):
    with pytest.raises(DataError, match=message) as caught:
        loaded(task, tmp_path, y=y)
    assert caught.value.hint
