"""Torch's data sets and loaders as parts of data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from kdeploy.data.lazy_items import LazyItems, is_repeatable
from kdeploy.data.load import DataReference, load
from kdeploy.data.rows import Rows
from kdeploy.data.torch_data import is_torch_data, split_of
from kdeploy.errors import KdeployError

X, Y = torch.arange(24).reshape(6, 1, 2, 2).float(), torch.tensor([0, 1, 2, 0, 1, 2])


class Own(TorchDataset):
    """Items as a function of their place."""

    def __init__(self, item, count=6):
        self.item, self.count = item, count

    def __len__(self):
        return self.count

    def __getitem__(self, place):
        if not 0 <= place < self.count:
            raise IndexError(place)
        return self.item(place)


class Stream(IterableDataset):
    def __iter__(self):
        return zip(X, Y, strict=True)


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(X, Y),
        Own(lambda place: {"image": X[place].numpy(), "label": int(Y[place])}),
        DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True),
        Stream(),
        DataLoader(Stream(), batch_size=4),
    ],
    ids=["tensors", "dictionaries", "loader", "stream", "loader of a stream"],
)
def test_items_and_targets_are_those_of_the_data(data):
    assert is_torch_data(data)
    split, _ = split_of(data, where="train")
    np.testing.assert_array_equal(np.asarray(split.x), X.numpy())
    assert split.y.tolist() == Y.tolist()


def test_of_a_loader_it_is_said_that_batches_are_the_training_s():
    _, notes = split_of(DataLoader(TensorDataset(X, Y)), where="train")
    assert "batches are the training's" in notes[0]


def test_items_that_change_are_read_anew_each_time():
    random = np.random.default_rng(0)
    split, notes = split_of(
        Own(lambda place: (random.normal(size=(1, 2, 2)), int(Y[place]))), where="train"
    )
    assert isinstance(split.x, LazyItems)
    assert split.x.dtype == np.float32
    assert (split.x[:2] != split.x[:2]).any()
    assert "change each time" in notes[0]


def test_large_data_stay_where_they_are(monkeypatch):
    monkeypatch.setattr("kdeploy.data.torch_data.MEMORY_BYTES", 16)
    split, _ = split_of(TensorDataset(X, Y), where="train")
    assert isinstance(split.x, LazyItems)
    np.testing.assert_array_equal(split.x[[5, 0]], X.numpy()[[5, 0]])


def test_boxes_of_different_number_are_filled_up():
    data = Own(lambda place: (X[place], torch.ones(place % 3, 5)))
    assert split_of(data, where="train")[0].y.shape == (6, 2, 5)


random_target = np.random.default_rng(0)
BAD = {
    "three": (lambda p: (X[p], Y[p], 0), r"train: item 0 is <class 'tuple'>"),
    "keys": (lambda p: {"a": 1}, r"train: item 0 is keys \['a'\]"),
    "text": (lambda p: (X[p], object()), "item 0 holds object"),
    "shape": (lambda p: (X[p][:, : 1 + (p < 3)], 0), r"item 3 is float32 \(1, 1, 2\), the first"),
    "target": (lambda p: (X[p], random_target.normal()), "another target each time"),
    "targets": (lambda p: (X[p], np.zeros((1, p + 1))), "targets have the shapes"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named_with_its_item(name):
    item, message = BAD[name]
    with pytest.raises(KdeployError, match=message) as caught:
        split_of(Own(item), where="train")
    assert caught.value.hint


def test_a_function_of_the_user_s_own_may_return_them(tmp_path):
    (tmp_path / "own.py").write_text(
        "import torch\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "def data():\n"
        "    x, y = torch.rand(20, 1, 3, 3), torch.arange(20) % 2\n"
        "    train = TensorDataset(x, y)\n"
        "    return {'train': DataLoader(train), 'test': TensorDataset(x + 1, y), 'classes': 2}\n"
    )
    data = load(DataReference(name="own.py:data", folder=tmp_path))
    assert data.train.x.shape[1:] == (1, 3, 3)
    assert any("batches are the training's" in note for note in data.notes)


def test_what_changes_has_no_countable_views():
    random = np.random.default_rng(0)
    changing, _ = split_of(Own(lambda p: (random.normal(size=(1, 2, 2)), int(Y[p]))), where="train")
    assert not is_repeatable(changing.x)
    assert not is_repeatable(Rows(changing.x, np.arange(2)))
    assert is_repeatable(np.zeros(2))


def test_nothing_is_refused():
    with pytest.raises(KdeployError, match="train has no items"):
        split_of(Own(lambda p: p, count=0), where="train")
    with pytest.raises(KdeployError, match="train yields no items"):
        split_of(iter(()), where="train")
    assert not is_torch_data(np.zeros(3))
