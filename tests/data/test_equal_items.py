from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdeploy.data import equal_items
from kdeploy.data.contract import Parts, Preprocessing, Split
from kdeploy.data.equal_items import notes_on_equal_items
from kdeploy.named_arrays import NamedArrays


def parts(train, test, validation=None):
    def split(x):
        return None if x is None else Split(x=x, y=np.zeros(len(x), np.int64))

    known = Preprocessing(shape=(4,), classes=("a", "b"))
    given = {"train": split(train), "test": split(test), "validation": split(validation)}
    return Parts(**given, preprocessing=known)


def items(seed, count=50):
    return np.random.default_rng(seed).integers(0, 9, (count, 12)).astype(np.float32)


def told(given):
    return list(notes_on_equal_items(given, "data"))


def test_says_how_many_items_were_there_to_learn():
    train = items(0)
    test = np.concatenate((items(1), train[[3, 3, 7]]))
    (note,) = told(parts(train, test, validation=items(2)))
    assert note.startswith("data: 3 of 53 items of the test part stand in the training part too")
    (note,) = told(parts(train, items(1), validation=train[10:]))
    assert "40 of 40 items of the validation part" in note


def test_nothing_is_said_of_data_that_are_apart():
    assert told(parts(items(0), items(1), items(2))) == []
    few = np.concatenate((items(1, count=200), items(0)[:1]))
    assert told(parts(items(0), few)) == []  # less than one of a hundred


def test_items_of_several_inputs_are_equal_where_all_inputs_are():
    one, other = items(0), items(1)
    train = NamedArrays({"a": one, "b": other})
    assert told(parts(train, NamedArrays({"a": one, "b": other[::-1]}))) == []
    assert len(told(parts(train, train[:5]))) == 1


@pytest.mark.parametrize("part", ["train", "test"])
def test_what_would_have_to_be_read_from_files_is_left(part):
    class FromFiles:
        nbytes = 10

        def __len__(self):
            return 5

        def __getitem__(self, rows):
            raise AssertionError("was read")

    given = parts(items(0), items(0))
    lazy = replace(getattr(given, part), x=FromFiles())
    assert told(replace(given, **{part: lazy})) == []


def test_large_data_are_not_read(monkeypatch):
    monkeypatch.setattr(equal_items, "MOST_BYTES", 100)
    assert told(parts(items(0), items(0))) == []
