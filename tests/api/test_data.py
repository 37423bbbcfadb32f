"""Data of a session: loaders, data sets and arrays become files that every step can read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import kdeploy
from kdeploy.api.data import reference_of, section_of
from kdeploy.data.load import load
from kdeploy.errors import DataError

X = np.random.default_rng(0).random((60, 1, 4, 4)).astype(np.float32)
Y = np.arange(60) % 3


class Pairs(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, place):
        return X[place], int(Y[place])


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y, strict=True)


FORMS = {
    "arrays": (X, Y),
    "tensors": (torch.tensor(X), torch.tensor(Y)),
    "dictionary": {"x": X, "y": Y},
    "data set": Pairs(),
    "shuffled loader": DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), 8, shuffle=True),
    "stream": DataLoader(Stream(), 8),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_items(form):
    data = load(reference_of(FORMS[form]))
    assert load(reference_of((X, Y))).fingerprint == data.fingerprint
    assert len(data.test) == 6
    assert len(data.train) + len(data.validation) == 54
    assert data.num_classes == 3


def test_parts_that_are_given_are_taken():
    given = kdeploy.Data(
        train=(X[:40], Y[:40]), validation=(X[40:50], Y[40:50]), test=(X[50:], Y[50:]),
        mean=[0.5], std=[0.25], augment=["horizontal_flip"], classes=["a", "b", "c"],
    )  # fmt: skip
    data = load(reference_of(given))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [40, 10, 10]
    assert (data.preprocessing.mean, data.augment) == ((0.5,), ("horizontal_flip",))
    assert data.preprocessing.classes == ("a", "b", "c")


def test_items_without_labels_are_allowed():
    assert not load(reference_of(X)).train.is_labelled


def test_a_recipe_s_keys_and_words_are_taken_as_they_are():
    assert section_of({"name": "digits", "size": 8}) == {"name": "digits", "size": 8}
    assert section_of("digits:size=8") == {"name": "digits", "size": 8}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (7, "found a int"),
        ([X[0], X[1], X[2]], "item 0 is"),
        (DataLoader(TensorDataset(torch.zeros(0, 1, 4, 4), torch.zeros(0)), 8), "no items"),
        ([(X[0], 0), (X[0, :, :2], 1)], "item 1 is"),
    ],
)
def test_what_is_no_data_is_told(given, message):
    with pytest.raises(DataError, match=message) as caught:
        section_of(given)
    assert caught.value.hint
