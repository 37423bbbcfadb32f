"""Batches: each item once, normalised as everywhere, in an order that follows from the seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdeploy.data.contract import Split
from kdeploy.errors import DataError
from kdeploy.training.batches import TrainingBatches, batches_in_order
from kdeploy.training.processes import Processes
from tests.tiny.text import sequences


def batches(data, batch_size=32, **options):
    options = {"device": torch.device("cpu"), "channels_last": True, **options}
    return TrainingBatches(data, batch_size=batch_size, **options)


def rows(data, count):
    return replace(data, train=Split(x=data.train.x[:count], y=data.train.y[:count]))


def test_every_item_comes_once_and_normalised(tiny_data):
    made = list(batches(tiny_data).epoch([0, 0]))
    x, y = torch.cat([b.x for b in made]), torch.cat([b.labels for b in made])
    order = np.random.default_rng([0, 0]).permutation(96)
    expected = tiny_data.preprocessing.apply(tiny_data.train.x[order])
    assert np.allclose(x.numpy(), expected, atol=1e-6)
    assert np.array_equal(y.numpy(), tiny_data.train.y[order])
    assert sorted(order) == list(range(96))


def test_another_epoch_has_another_order(tiny_data):
    first, again, second = (
        torch.cat([b.labels for b in batches(tiny_data).epoch(seed)])
        for seed in ([0, 0], [0, 0], [0, 1])
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("count", "sizes"), [(96, [32, 32, 32]), (66, [32, 32, 2]), (65, [32, 32]), (1, [1])]
)
def test_a_last_batch_of_one_item_is_left_out(count, sizes, tiny_data):
    made = batches(rows(tiny_data, count))
    assert [len(b.labels) for b in made.epoch([0, 0])] == sizes
    assert made.steps == len(sizes)


def test_data_that_is_mapped_read_only_works(tiny_data, tmp_path):
    np.save(tmp_path / "x.npy", tiny_data.train.x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = replace(tiny_data, train=Split(x=mapped, y=tiny_data.train.y))
    assert len(next(batches(data).epoch([0, 0]))[0]) == 32
    in_order = batches_in_order(
        mapped, data.preprocessing, batch_size=50, device=torch.device("cpu")
    )
    found = torch.cat(list(in_order)).numpy()
    assert np.allclose(found, data.preprocessing.apply(tiny_data.train.x), atol=1e-6)


def test_augmentation_acts_before_normalisation(tiny_data):
    data = replace(tiny_data, augment=("random_crop",))
    torch.manual_seed(0)
    x = torch.cat([b.x for b in batches(data).epoch([0, 0])])
    order = np.random.default_rng([0, 0]).permutation(96)
    plain = torch.from_numpy(data.preprocessing.apply(data.train.x[order]))
    black = (0 - 0.3) / 0.25
    assert not torch.equal(x, plain)
    assert x.min().item() == pytest.approx(black), "what comes in from outside is a stored 0"


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_items_have_mixed_labels_and_are_of_no_view(mix, tiny_data, caplog):
    data = replace(tiny_data, augment=("horizontal_flip", mix))
    made = batches(data, views=2)
    assert made.view(0, seed=0, passed=lambda done, items: None) is None
    assert "`views` has no effect" in caplog.text
    torch.manual_seed(0)
    batch = next(iter(made.epoch([0, 0])))
    plain = torch.from_numpy(data.preprocessing.apply(data.train.x[batch.rows.numpy()]))
    own = data.train.y[batch.rows.numpy()]
    assert batch.labels.shape == (32, 4)
    assert torch.allclose(batch.labels.sum(1), torch.ones(32))
    assert (batch.labels[torch.arange(32), torch.from_numpy(own)] < 0.999).any()
    assert not torch.allclose(batch.x, plain)
    assert batch.view == -1, "no teacher has answered on it before"


def test_an_empty_part_is_an_error(tiny_data):
    with pytest.raises(DataError, match="training part of edges is empty"):
        batches(rows(tiny_data, 0))


def test_token_ids_come_whole_with_a_label_each():
    data = sequences()
    made = list(batches(data, 30).epoch([0, 0]))
    assert {b.x.dtype for b in made} == {torch.int64}
    for batch in made:
        np.testing.assert_array_equal(batch.x, data.train.x[batch.rows])
        np.testing.assert_array_equal(batch.labels, data.train.y[batch.rows])
    view = batches(data).view(0, seed=0, passed=lambda done, whole: None)
    place, x = next(view.blocks())
    assert x.dtype == torch.int64
    np.testing.assert_array_equal(x, data.train.x[place])


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_processes_and_parts_share_every_step_by_items(count, accumulate, tiny_data):
    data = rows(tiny_data, 67)  # a last step of 3
    each = [
        batches(data, accumulate=accumulate, processes=Processes(rank=rank, devices=count))
        for rank in range(count)
    ]
    order = np.random.default_rng([0, 0]).permutation(67)
    for step, shares in enumerate(zip(*(b.epoch([0, 0]) for b in each), strict=True)):
        parts = [b.cut(share, step) for b, share in zip(each, shares, strict=True)]
        found = np.concatenate([part.rows for own in parts for part in own])
        expected = order[step * 32 : step * 32 + 32]
        assert len({len(own) for own in parts}) == 1, "as many in every process"
        assert sum(part.share for own in parts for part in own) == pytest.approx(1)
        if len(expected) > 3:
            assert np.array_equal(found, expected)
            assert all(
                part.share == pytest.approx(len(part.rows) / len(expected)) and len(part.rows) >= 2
                for own in parts
                for part in own
            )
        else:
            assert np.array_equal(found, np.tile(expected, count)), "each learns it whole"
    assert [each[0].size(step) for step in range(each[0].steps)] == [32, 32, 3]


def test_mapped_data_that_is_read_ahead_is_the_same(tiny_data, tmp_path):
    np.save(tmp_path / "x.npy", tiny_data.train.x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    augmented = replace(tiny_data, augment=("random_crop",))
    data = replace(augmented, train=Split(x=mapped, y=tiny_data.train.y))
    made = []
    for each in (augmented, data):
        torch.manual_seed(0)
        made.append(list(batches(each).epoch([0, 0])))
    for one, other in zip(*made, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.labels, other.labels)
