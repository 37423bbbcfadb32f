from __future__ import annotations

import numpy as np
import pytest

from kdeploy.data.labels import Labels, classes_of, labels_of
from kdeploy.errors import DataError

Y = np.arange(12) % 3


@pytest.mark.parametrize(
    ("given", "note"),
    [
        (Y, ""),
        (Y.astype(np.uint8), ""),
        (Y.astype(">i4"), ""),
        (Y.astype(np.float64), "float64 labels are whole numbers"),
        (Y[:, None], "shape (N, 1) are taken as (N,)"),
        (Y[:, None].astype(np.float32), "float32 labels are whole numbers"),
        (np.eye(3)[Y], "one-hot labels (12, 3)"),
        (np.eye(3, dtype=bool)[Y], "one-hot labels (12, 3)"),
    ],
)
def test_takes_what_means_the_same_in_one_way_only_and_tells(given, note):
    found = labels_of(given, where="train.npz")
    assert found.y.dtype == np.int64
    assert found.y.tolist() == Y.tolist()
    assert found.note == "" if not note else note in found.note


def test_true_and_false_are_two_classes():
    found = labels_of(Y > 1, where="train.npz")
    assert found.y.tolist() == [0, 0, 1] * 4
    assert "False and True" in found.note


def test_one_hot_rows_tell_the_number_of_classes_also_of_those_without_items():
    found = labels_of(np.eye(5)[Y], where="train")
    assert classes_of(None, {"train": found}) == ["0", "1", "2", "3", "4"]
    with pytest.raises(DataError, match=r"test: labels are one-hot of 3, those of train are one-h"):
        classes_of(None, {"train": found, "test": labels_of(np.eye(3)[Y], where="test")})


@pytest.mark.parametrize(
    ("values", "says", "hints"),
    [
        (Y + 1, r"labels begin at 1 \(1, 2, 3\)", "`y = y - 1`"),
        (Y * 2, r"no item has the label 1", "`classes: 5`"),
        (np.where(Y == 2, 19, Y), r"3 different labels from 0 to 19 \(0, 1, 19\)", "classes: 20"),
        (np.arange(12), "12 different labels in 12 items", "each needs several items"),
        (np.arange(12) * 10**9, "quantities", "one class an item"),
        (Y + 10**9, r"from 1000000000 to 1000000002 \(1000000000, 1000000001", "np.unique"),
    ],
)
def test_labels_that_do_not_tell_their_classes_are_refused(values, says, hints):
    with pytest.raises(DataError, match=says) as caught:
        classes_of(None, {"train": labels_of(values, where="train.npz")})
    assert hints in caught.value.hint
    assert caught.value.message.startswith("train: ")


@pytest.mark.parametrize(
    ("values", "says", "hint"),
    [
        (np.array(["no", "yes"])[Y % 2], r"names \(no, yes", "`classes: [no, yes, ...]`"),
        (np.array([b"no", b"yes"])[Y % 2], r"names \(no, yes", "`classes: [no, yes, ...]`"),
        (Y.astype(str), r"numbers as text \(0, 1, 2", "`y = y.astype(int)`"),
        (Y.astype("S"), r"numbers as text \(0, 1, 2", "`y = y.astype(int)`"),
    ],
)
def test_labels_that_are_text_are_told_to_be_numbered(values, says, hint):
    with pytest.raises(DataError, match=says) as caught:
        labels_of(values, where="train.npz")
    assert hint in caught.value.hint


def test_no_hint_offers_more_classes_than_there_may_be():
    with pytest.raises(DataError) as caught:
        classes_of(None, {"train": labels_of(Y + 10**9, where="train.npz")})
    assert "classes:" not in caught.value.hint


def test_classes_that_are_given_may_have_no_items():
    labels = Labels(y=np.where(Y == 2, 3, Y))
    assert classes_of(5, {"train": labels}) == ["0", "1", "2", "3", "4"]
    assert classes_of(["a", "b", "c", "d"], {"train": labels}) == ["a", "b", "c", "d"]


def test_of_a_few_items_each_may_be_a_class_of_its_own():
    assert len(classes_of(None, {"train": Labels(y=np.arange(5))})) == 5
