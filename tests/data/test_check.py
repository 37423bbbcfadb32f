from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdeploy.data.check import checked_parts
from kdeploy.data.contract import Parts, Preprocessing, Split
from kdeploy.errors import DataError

X = np.arange(96, dtype=np.float32).reshape(6, 1, 4, 4)
Y = np.array([0, 1, 2, 0, 1, 2])


def parts(**test):
    return Parts(
        train=Split(x=X, y=Y),
        test=Split(**{"x": X + 100, "y": Y, "origin": "some/test.npz"} | test),
        preprocessing=Preprocessing(shape=(1, 4, 4), classes=("a", "b", "c")),
    )


def with_value(value):
    x = X.copy()
    x[4, 0, 1, 1] = value
    return x


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ({"y": Y + 1}, r"label 3 at item 2 is out of range, there are 3 classes: 0\.\.2"),
        ({"y": Y - 1}, "label -1 at item 0 is negative"),
        ({"y": Y + 0.5}, r"quantities \(regression\), not classes"),
        ({"y": 2 * np.eye(6)}, r"one number an item, \(N,\); found float64 of shape \(6, 6\)"),
        ({"y": list(Y)}, "y is list, not a numpy array"),
        ({"x": X.tolist()}, "x is list, not a numpy array"),
        ({"x": (X * 2).astype(np.uint8)}, "x is uint8, in the train part it is float32"),
        ({"y": Y[:5]}, "6 items but 5 labels"),
        ({"x": X[:0], "y": Y[:0]}, "is empty"),
        ({"x": X.astype(np.float64)}, "x is float64, it must be uint8 or float32"),
        ({"x": X[:, :, :3]}, r"has the shape \(1, 3, 4\), expected \(1, 4, 4\)"),
        ({"x": X * 0 + 3}, r"all 6 items are the same: every value is 3\.0"),
        ({"x": X[[2] * 6]}, "all 6 items are the same"),
        ({"x": with_value(np.nan)}, "item 4 of x holds a value that is NaN or infinite"),
        ({"x": with_value(-np.inf)}, "item 4 of x holds a value that is NaN or infinite"),
    ],
)
def test_names_the_part_and_what_is_wrong_with_it(test, message):
    with pytest.raises(DataError, match=message) as caught:
        checked_parts(parts(**test), where="data `own`")
    assert "test part of data `own` (some/test.npz)" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mean": (0.0, 0.0)}, "`mean` has 2 numbers for 1 channels"),
        ({"std": (0.0,)}, "`std` is"),
        ({"mean": (float("nan"),)}, "`mean` is"),
        ({"classes": ("only",)}, "found 1 class"),
        ({"shape": ()}, "x is one number an item"),
        ({"scale": 0.0}, r"`scale` is 0\.0"),
        ({"scale": float("inf")}, "`scale` is inf"),
        ({"resize": "bicubic"}, "`resize` is `bicubic`, which no bundle can do"),
        ({"background": (1, 2)}, r"`background` is \(1, 2\)"),
        ({"background": (1, 2, 256)}, r"`background` is \(1, 2, 256\)"),
    ],
)
def test_refuses_a_preprocessing_that_cannot_be_applied(changed, message):
    good = parts()
    with pytest.raises(DataError, match=message):
        checked_parts(
            replace(good, preprocessing=replace(good.preprocessing, **changed)), where="data"
        )


def test_accepts_what_fits():
    assert checked_parts(parts(), where="data").notes == ()
    taken = checked_parts(parts(y=Y.astype(np.uint8)), where="data")
    assert taken.test.y.dtype == np.int64


def test_labels_that_were_converted_are_those_of_the_parts():
    taken = checked_parts(parts(y=Y.astype(np.float32)), where="data `own`")
    assert taken.test.y.tolist() == Y.tolist()
    [note] = taken.notes
    assert "test part of data `own` (some/test.npz): float32 labels are whole numbers" in note


def test_a_class_without_training_items_is_told():
    known = replace(parts().preprocessing, classes=("a", "b", "c", "d"))
    taken = checked_parts(replace(parts(), preprocessing=known), where="data `own`")
    assert taken.notes == ("data `own`: 1 of 4 classes have no training item: d",)


def test_a_channel_that_never_changes_is_told_and_not_refused():
    x = np.random.default_rng(0).normal(size=(9000, 3, 4)).astype(np.float32)
    x[:, 1] = 0.5
    known = Preprocessing(shape=(3, 4), classes=("a", "b"))
    split = Split(x=x, y=np.arange(9000) % 2)
    other = np.where([[[False], [True], [False]]], x, x[::-1] + 1)
    both = Parts(train=split, test=replace(split, x=other), preprocessing=known)
    told = checked_parts(both, where="data `own`").notes
    assert told == ("data `own`: in x of train these channels never change: 1 (always 0.5)",)
    x[8999, 1] = 0.6
    assert checked_parts(both, where="data").notes == ()


IDS = np.arange(12, dtype=np.int32).reshape(6, 2)
NEXT = np.array([[0, 1], [2, -100], [0, 1], [2, 0], [1, 2], [0, 1]])


def texts(*, x=IDS, y=Y, **preprocessing):
    known = {"shape": (2,), "classes": ("a", "b", "c"), "dtype": "int64", "vocabulary": 12}
    return Parts(
        train=Split(x=IDS, y=Y),
        test=Split(x=x, y=y),
        preprocessing=Preprocessing(**(known | preprocessing)),
    )


@pytest.mark.parametrize("y", [Y, NEXT])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_accepts_token_ids_with_labels_of_items_or_of_tokens(y, dtype):
    checked_parts(texts(x=IDS.astype(dtype), y=y), where="data")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": IDS.astype(np.float32)}, "x is float32, it must be int32 or int64"),
        ({"x": IDS + 1}, "item 5 of x has ids from 11 to 12, the vocabulary has 12"),
        ({"x": IDS - 1}, "item 0 of x has ids from -1 to 0"),
        ({"x": IDS[:, :1]}, r"has the shape \(1,\), expected \(2,\)"),
        ({"y": NEXT[:, [0, 1, 1]]}, r"one number an item, \(N,\)"),
        ({"y": NEXT + 1}, "label -99 at item 1, token 1 is negative"),
        ({"y": np.where(NEXT == 2, 3, NEXT)}, "label 3 at item 1 is out of range"),
        ({"y": np.full_like(NEXT, -100)}, "no token counts"),
        ({"y": NEXT.astype(float)}, "must be integers; found float64"),
        ({"vocabulary": 1}, "with a vocabulary of 1"),
        ({"shape": (1, 2)}, r"token ids of shape \(1, 2\)"),
    ],
)
def test_says_what_is_wrong_with_token_ids(changed, message):
    with pytest.raises(DataError, match=message) as caught:
        checked_parts(texts(**changed), where="data")
    assert caught.value.hint
