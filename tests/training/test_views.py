"""Views: the same versions of the same items, whoever asks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdeploy.data.augmentation import augmenter
from kdeploy.data.contract import Split
from kdeploy.data.rows import Rows
from kdeploy.training import views
from kdeploy.training.batches import TrainingBatches

SHAPE = (1, 12, 12)


@pytest.fixture
def augment():
    return augmenter(("random_crop", "horizontal_flip"), SHAPE)


@pytest.fixture
def stored():
    return np.random.default_rng(0).integers(0, 256, (600, *SHAPE), dtype=np.uint8)


def made(data, *, count=3, batch_size=32, seed=0, epoch=0):
    batches = TrainingBatches(
        data,
        batch_size=batch_size,
        device=torch.device("cpu"),
        channels_last=False,
        views=count,
    )
    view = batches.view(epoch, seed=seed, passed=lambda done, items: None)
    return view, list(batches.epoch([seed, epoch], view))


def test_a_view_does_not_depend_on_the_global_random_numbers(stored, augment):
    torch.manual_seed(1)
    one = views.augmented(stored, augment, view=2)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert np.array_equal(one, views.augmented(stored, augment, view=2))
    assert torch.equal(torch.get_rng_state(), state)


def test_views_differ_and_keep_the_type(stored, augment):
    one, other = (views.augmented(stored, augment, view=view) for view in (0, 1))
    assert one.dtype == np.uint8
    assert (one != other).any(axis=(1, 2, 3)).mean() > 0.9


def test_each_item_has_a_version_of_its_own(stored, augment):
    same = np.repeat(stored[:1], 64, axis=0)
    versions = {item.tobytes() for item in views.augmented(same, augment, view=0)}
    assert len(versions) > 20


def test_the_items_of_a_batch_are_those_of_the_view(tiny_data):
    data = replace(tiny_data, augment=("random_crop", "horizontal_flip"))
    view, batches = made(data)
    rows = torch.cat([batch.rows for batch in batches]).numpy()
    x = torch.cat([batch.x for batch in batches])
    assert sorted(rows) == list(range(96))
    assert {batch.view for batch in batches} == {view.index}
    assert np.allclose(x.numpy(), data.preprocessing.apply(view.items[rows]), atol=1e-6)
    in_order = torch.cat([x for _, x in view.blocks()])
    assert torch.equal(in_order[torch.from_numpy(rows)], x)


def test_seed_and_batch_size_change_the_order_but_no_version(tiny_data):
    data = replace(tiny_data, augment=("random_crop",))
    one = {v.index: v.items for v in (made(data, epoch=e)[0] for e in range(3))}
    other = {
        v.index: v.items for v in (made(data, seed=9, batch_size=7, epoch=e)[0] for e in range(3))
    }
    assert set(one) == set(other) == {0, 1, 2}
    assert all(np.array_equal(one[index], other[index]) for index in one)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_all_views_come_before_one_comes_again(count):
    for cycle in range(3):
        epochs = range(cycle * count, (cycle + 1) * count)
        seen = [views.order_of_views(count, seed=4, epoch=epoch) for epoch in epochs]
        assert sorted(seen) == list(range(count))


def test_what_is_not_augmented_has_one_view(tiny_data):
    view, batches = made(tiny_data, count=0)
    assert (view.index, view.count) == (0, 1)
    assert view.items is tiny_data.train.x
    assert {batch.view for batch in batches} == {0}


def test_without_countable_views_each_batch_is_drawn_anew(tiny_data):
    view, batches = made(replace(tiny_data, augment=("random_crop",)), count=0)
    assert view is None
    assert {batch.view for batch in batches} == {-1}


def test_the_fingerprint_sees_data_split_and_definition(tiny_data):
    data = replace(tiny_data, augment=("random_crop",))
    shuffled = Split(x=data.train.x[::-1].copy(), y=data.train.y[::-1].copy())
    others = [
        views.fingerprint_of_views(replace(data, augment=("horizontal_flip",)), 3),
        views.fingerprint_of_views(data, 4),
        views.fingerprint_of_views(replace(data, train=shuffled), 3),
        views.fingerprint_of_views(replace(data, fingerprint="other"), 3),
    ]
    assert len({views.fingerprint_of_views(data, 3), *others}) == 5


def test_the_fingerprint_of_rows_of_a_file_knows_which(tiny_data):
    x, half = tiny_data.train.x, np.arange(48)
    parts = [Split(x=Rows(x, rows), y=tiny_data.train.y[rows]) for rows in (half, half + 48)]
    one, other = (views.fingerprint_of_views(replace(tiny_data, train=p), 1) for p in parts)
    assert one != other


def test_a_view_larger_than_memory_lies_in_a_file(stored, augment, monkeypatch):
    expected = views.augmented(stored, augment, view=0)
    monkeypatch.setattr(views, "MEMORY_BYTES", 1000)
    found = views.augmented(stored, augment, view=0)
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, expected)
