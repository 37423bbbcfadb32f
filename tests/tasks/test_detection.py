"""Detection: targets, outputs, what is detected, and the loss with labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdeploy.data.contract import AsGiven, Dataset, Parts, Preprocessing, Split
from kdeploy.errors import KdeployError
from kdeploy.tasks.decoding.detection import decode, disagreement
from kdeploy.tasks.detection import MOST_DETECTIONS, Detection, as_truth
from kdeploy.tasks.detection_heads import KnownHead

SIZE = (32, 64)
NOBODY = [0, 0, 0, 0, -1]
TRUTH = np.array(
    [[[2, 4, 20, 24, 0], [30, 8, 60, 30, 2]], [[0, 0, 64, 32, 1], NOBODY], [NOBODY] * 2],
    np.float32,
)


def parts(y, classes=("a", "b", "c"), y_test=None):
    x = np.random.default_rng(0).integers(0, 255, (len(y), 3, *SIZE), dtype=np.uint8)
    test = y if y_test is None else y_test
    return Parts(
        train=Split(x=x, y=y),
        test=Split(x=x[: len(test)], y=test),
        preprocessing=Preprocessing(shape=(3, *SIZE), scale=1 / 255, classes=tuple(classes)),
    )


def task(**parameters):
    made = Detection(**parameters)
    made.read_targets(parts(TRUTH.copy()), where="data")
    return made


def exact_answer(truth=TRUTH, stride=4, certain=12.0):
    """Return the outputs of a detector that knows the truth: cells in the middle say a box."""
    height, width = SIZE[0] // stride, SIZE[1] // stride
    x, y = np.meshgrid((np.arange(width) + 0.5) * stride, (np.arange(height) + 0.5) * stride)
    boxes = np.ones((len(truth), 4, height, width), np.float32)
    scores = np.full((len(truth), 3, height, width), -certain, np.float32)
    for item, own in enumerate(truth):
        for x1, y1, x2, y2, label in own[own[:, 4] >= 0]:
            middle = (abs(x - (x1 + x2) / 2) <= stride) & (abs(y - (y1 + y2) / 2) <= stride)
            inside = middle & (x > x1) & (x < x2) & (y > y1) & (y < y2)
            edges = np.stack([x - x1, y - y1, x2 - x, y2 - y])
            boxes[item][:, inside] = edges[:, inside]
            scores[item, int(label), inside] = certain
    return {"boxes": boxes, "scores": scores}


def tensors(answer):
    return {name: torch.from_numpy(value) for name, value in answer.items()}


def test_a_detector_that_knows_the_truth_finds_it_all():
    found = task().predictions(exact_answer(), None)
    assert found.shape == (3, MOST_DETECTIONS, 6)
    assert (found[..., 4] >= 0).sum(1).tolist() == [2, 1, 0]
    for own, true in zip(found[0][:2], TRUTH[0], strict=True):
        own = found[0][found[0, :, 4] == true[4]][0]
        np.testing.assert_allclose(own[:4], true[:4], atol=1e-4)
    assert task().metrics(found, TRUTH) == pytest.approx(
        {"detection.map": 1.0, "detection.map50": 1.0}, abs=1e-6
    )


@pytest.mark.parametrize("form", ["dense", "list", "named", "decoded", "bins"])
def test_every_form_says_the_same(form):
    dense = exact_answer()
    wanted = task().predictions(dense, None)
    answer = dense
    if form == "list":
        answer = {name: [value] for name, value in dense.items()}
    elif form == "named":
        answer = {f"{name}.4": value for name, value in dense.items()}
    elif form == "decoded":
        one = KnownHead().decode(dense, SIZE)
        answer = {"boxes": one.boxes, "scores": 1 / (1 + np.exp(-one.logits))}
    elif form == "bins":
        bins = np.full((3, 4, 20, *dense["boxes"].shape[2:]), -40, np.float32)
        steps = dense["boxes"] / 4
        low = np.floor(steps).astype(int)
        share = np.clip(steps - low, 1e-9, 1 - 1e-7)
        np.put_along_axis(bins, low[:, :, None], np.log(1 - share)[:, :, None], 2)
        np.put_along_axis(bins, low[:, :, None] + 1, np.log(share)[:, :, None], 2)
        answer = {"boxes": bins.reshape(3, 80, *bins.shape[3:]), "scores": dense["scores"]}
    found = task().predictions(answer, None)
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_numpy_and_torch_decode_alike():
    random = np.random.default_rng(0)
    answer = {
        "boxes": [random.uniform(0, 9, (2, 4, s, 2 * s)).astype(np.float32) for s in (8, 4)],
        "scores": [random.normal(size=(2, 3, s, 2 * s)).astype(np.float32) for s in (8, 4)],
    }
    own = KnownHead().decode(answer, SIZE)
    other = KnownHead().decode(
        {name: [torch.from_numpy(v) for v in values] for name, values in answer.items()}, SIZE
    )
    assert own.boxes.shape == (2, 160, 4)
    np.testing.assert_allclose(own.boxes, other.boxes.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(own.strides, other.strides.numpy())
    assert own.strides[0] == 4
    assert own.strides[-1] == 8


def test_of_boxes_of_a_class_that_overlap_the_best_stays():
    boxes = np.array([[[0, 0, 10, 10], [1, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30]]])
    scores = np.array([[[0.8, 0, 0], [0.9, 0, 0], [0, 0.7, 0], [0.005, 0, 0]]])
    found = task().predictions(
        {"boxes": boxes.astype(np.float32), "scores": scores.astype(np.float32)}, None
    )
    kept = found[0][found[0, :, 4] >= 0]
    assert kept[:, 4:].tolist() == [[0, pytest.approx(0.9)], [1, pytest.approx(0.7)]]


def test_an_answer_that_is_no_number_is_told():
    answer = exact_answer()
    answer["boxes"][1, 0, 0, 0] = np.nan
    found = task().predictions(answer, None)
    assert "1 of 3 items are NaN" in task().unreadable(found)
    assert task().metrics(found, TRUTH) == {}


def test_agreement_takes_the_other_s_detections_as_truth():
    own = task()
    found = own.predictions(exact_answer(), None)
    assert own.agreement(found, found) == pytest.approx({"agreement.map": 1.0})
    assert (as_truth(found)[..., 4] >= 0).sum() == 3
    weak = found * np.float32([1, 1, 1, 1, 1, 0.2])
    assert own.agreement(found, weak) == {}


def test_the_truth_has_the_least_loss():
    own, truth = task(), torch.from_numpy(TRUTH)
    exact = tensors(exact_answer())
    least = own.label_loss(exact, truth).item()
    assert least < 0.01
    random = torch.Generator().manual_seed(0)
    for name in exact:
        worse = {**exact, name: exact[name] + torch.rand(exact[name].shape, generator=random) * 4}
        assert own.label_loss(worse, truth) > least + 0.003


def test_without_objects_the_loss_is_finite_and_boxes_learn_nothing():
    answer = {n: v.requires_grad_() for n, v in tensors(exact_answer()).items()}
    nobody = torch.full((3, 2, 5), -1.0)
    loss = task().label_loss(answer, nobody)
    loss.backward()
    assert loss.isfinite()
    assert not answer["boxes"].grad.any()
    assert answer["scores"].grad.any()
    empty = task().label_loss(tensors(exact_answer()), torch.zeros(3, 0, 5))
    assert empty.isfinite()


def test_in_a_crowd_nothing_is_background():
    answer = tensors(exact_answer())
    truth = torch.from_numpy(TRUTH.copy())
    crowd = truth.clone()
    crowd[1, 0, 4] = -2 - 1
    missing = truth.clone()
    missing[1, 0, 4] = -1
    own = task()
    assert own.label_loss(answer, crowd) < 0.02 < own.label_loss(answer, missing)


def test_a_box_between_two_cells_is_learned_too():
    truth = torch.tensor([[[5.0, 5.0, 7.0, 7.0, 1.0]]])
    answer = tensors(exact_answer(truth.numpy(), stride=8))
    answer["boxes"] = answer["boxes"].requires_grad_()
    task().label_loss(answer, truth).backward()
    assert answer["boxes"].grad.any()


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (lambda y: y[..., :4], "targets have the shape", "x1, y1"),
        (lambda y: y[:, 0], "targets have the shape", "x1, y1"),
        (lambda y: y + np.float32(0.5), "class that is no whole number", "class"),
        (lambda y: y[..., [2, 1, 0, 3, 4]], "box 0 of item 0, .* no width", "x1, y1"),
        (lambda y: y * np.float32([3, 1, 3, 1, 1]), "outside of its image of 64 x 32", "pixels"),
        (lambda y: np.where(y == 20, np.nan, y), "no finite number", "drop"),
        (lambda y: np.where(y == 2, 3, y), "has the class 3, there are 3", "from 0"),
        (lambda y: y.astype(str), "no numbers", "float32"),
    ],
)
def test_targets_that_cannot_be_are_refused(change, message, hint):
    with pytest.raises(KdeployError, match=message) as caught:
        Detection().read_targets(parts(change(TRUTH.copy())), where="data")
    assert hint in caught.value.hint


def test_a_box_at_the_edge_is_cut_and_told():
    y = TRUTH.copy()
    y[1, 0] = [-0.5, 0, 64.5, 32, 1]
    read = Detection().read_targets(parts(y), where="data")
    assert read.train.y[1, 0].tolist() == [0, 0, 64, 32, 1]
    assert any("1 boxes were cut" in note for note in read.notes)


def test_the_classes_are_those_given_or_as_many_as_there_are():
    given = replace(parts(TRUTH.copy(), classes=()), as_given=AsGiven(classes=5))
    assert len(Detection().read_targets(given, where="d").preprocessing.classes) == 5
    given = replace(given, as_given=AsGiven(classes=None))
    assert len(Detection().read_targets(given, where="d").preprocessing.classes) == 3


def dataset():
    own = parts(TRUTH.copy())
    return Dataset(
        name="scenes", train=own.train, validation=own.train, test=own.test,
        preprocessing=own.preprocessing, fingerprint="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(2, 3), "a detector returns .* found Tensor"),
        ({"boxes": torch.zeros(2, 4, 8, 8)}, "found boxes"),
        ({"boxes": torch.zeros(2, 4, 8, 8), "scores": torch.zeros(2, 3, 4, 4)}, "with scores"),
        ({"boxes": torch.zeros(2, 3, 8, 8), "scores": torch.zeros(2, 3, 8, 8)}, "with scores"),
        ({"boxes": torch.zeros(2, 9, 4), "scores": torch.zeros(2, 8, 3)}, "with scores"),
        ({"boxes": torch.zeros(2, 4, 8, 8), "scores": torch.zeros(2, 2, 8, 8)}, "2 classes"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(answer, message):
    with pytest.raises(KdeployError, match=message) as caught:
        task().check_answer(answer, dataset(), who="the student")
    assert caught.value.hint


def test_a_head_of_the_user_s_own_reads_other_outputs(tmp_path):
    (tmp_path / "head.py").write_text(
        "class Head:\n"
        "    def decode(self, answer, size):\n"
        "        return answer[..., :4], answer[..., 4:]\n"
    )
    one = KnownHead().decode(exact_answer(), SIZE)
    own = task(head=tmp_path / "head.py:Head")
    found = own.predictions(np.concatenate([one.boxes, one.logits], -1), None)
    np.testing.assert_allclose(found, task().predictions(exact_answer(), None))
    (tmp_path / "head.py").write_text("class Head:\n    pass\n")
    with pytest.raises(KdeployError, match="has no `decode`"):
        task(head=tmp_path / "head.py:Head")


@pytest.mark.parametrize("form", ["cells", "strides", "bins", "decoded"])
def test_a_device_reads_the_boxes_that_kdeploy_judges(form):
    random = np.random.default_rng(0)

    def drawn(*shape):
        return random.normal(0, 2, shape).astype(np.float32)

    outputs = {
        "cells": {"boxes": np.abs(drawn(1, 4, 8, 16)) * 4, "scores": drawn(1, 3, 8, 16)},
        "bins": {"boxes": drawn(1, 32, 8, 16), "scores": drawn(1, 3, 8, 16)},
        "decoded": {
            "boxes": np.concatenate([drawn(1, 9, 2) + 8, drawn(1, 9, 2) + 20], -1),
            "scores": random.uniform(0, 1, (1, 9, 3)).astype(np.float32),
        },
        "strides": {
            "boxes.0": np.abs(drawn(1, 4, 8, 16)), "boxes.1": np.abs(drawn(1, 4, 4, 8)) * 4,
            "scores.0": drawn(1, 3, 8, 16), "scores.1": drawn(1, 3, 4, 8),
        },
    }[form]  # fmt: skip
    known = task()
    judged = known.predictions(outputs, None)[0]
    shown = decode(outputs, known.to_dict())["boxes"]
    judged = judged[judged[:, 4] >= 0]
    assert len(judged) == len(shown) > 3
    np.testing.assert_allclose([one["box"] for one in shown], judged[:, :4], atol=1e-4)
    np.testing.assert_allclose([one["score"] for one in shown], judged[:, 5], atol=1e-5)
    assert [one["class"] for one in shown] == ["abc"[int(row[4])] for row in judged]


def test_boxes_that_another_processor_loses_or_moves_are_told():
    known = task().to_dict()
    outputs = {name: value[:1] for name, value in exact_answer().items()}
    assert disagreement(outputs, outputs, known) == ""
    moved = {**outputs, "boxes": outputs["boxes"] * 0.5}
    assert "a at (2.0, 4.0, 20.0, 24.0) with score 1.00 is missing" in disagreement(
        moved, outputs, known
    )
    silent = {**outputs, "scores": np.full_like(outputs["scores"], -12)}
    assert "is missing" in disagreement(silent, outputs, known)


def test_outputs_that_only_a_head_of_ones_own_reads_are_not_called_equal():
    assert disagreement({}, {}, {"parameters": {"head": "head.py:Head"}}) is None
