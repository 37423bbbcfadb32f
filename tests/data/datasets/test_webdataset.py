"""WebDataset: samples read out of their shards, each once, and what is wrong with shards."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from kdeploy.data.datasets.webdataset import webdataset
from kdeploy.data.lazy_items import LazyItems
from kdeploy.data.load import DataReference, load
from kdeploy.data.tar_samples import shards_of
from kdeploy.errors import KdeployError
from kdeploy.training.batches import TrainingBatches
from kdeploy.training.processes import Processes

COUNT = 10


def pixels(number):
    made = np.random.default_rng(number).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    made[0, 0] = number
    return made


def png(number):
    stream = io.BytesIO()
    Image.fromarray(pixels(number)).save(stream, "PNG")
    return stream.getvalue()


def shard(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def members(start, count=COUNT, target=lambda n: ("cls", str(n % 3).encode())):
    for number in range(start, start + count):
        ending, content = target(number)
        yield f"deep/{number:04}.png", png(number)
        yield f"deep/{number:04}.{ending}", content


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        shard(tmp_path / f"train-{number:03}.tar", members(number * COUNT))
    shard(tmp_path / "test.tar", members(100))
    return tmp_path


def read(folder, shards="train-{000..002}.tar", **parameters):
    given = {"test": folder / "test.tar", "size": (4, 6), **parameters}
    return webdataset(shards=folder / shards, **given)


def test_pictures_are_read_from_their_shards_when_they_are_shown(folder):
    parts = read(folder)
    assert isinstance(parts.train.x, LazyItems)
    assert parts.train.x.shape == (30, 3, 4, 6)
    expected = np.stack([pixels(n).transpose(2, 0, 1) for n in range(30)])
    np.testing.assert_array_equal(np.asarray(parts.train.x), expected)
    order = np.array([7, 29, 0, 7])
    np.testing.assert_array_equal(parts.train.x[order], expected[order])
    np.testing.assert_array_equal(parts.train.x[11], expected[11])
    np.testing.assert_array_equal(parts.train.x[2:9, 1], expected[2:9, 1])
    assert parts.train.y.tolist() == [n % 3 for n in range(30)]
    assert parts.preprocessing.classes == ("0", "1", "2")


def test_patterns_count_list_and_match(folder):
    for pattern in ("train-{000..002}.tar", "train-{000,001,002}.tar", "train-*.tar"):
        names = [path.name for path in shards_of(folder / pattern)]
        assert names == [f"train-{n:03}.tar" for n in range(3)]


def test_without_a_test_part_the_last_tenth_is_one(folder):
    parts = read(folder, test=None)
    assert (len(parts.train), len(parts.test)) == (27, 3)
    assert any("the last 3 samples" in note for note in parts.notes)


@pytest.mark.parametrize("count", [1, 2])
def test_processes_show_each_sample_once(folder, count):
    given = {"shards": "train-*.tar", "test": "test.tar", "size": [4, 6]}
    data = load(DataReference(name="webdataset", parameters=given, folder=folder))
    shown = []
    for rank in range(count):
        batches = TrainingBatches(
            data, batch_size=9, device=torch.device("cpu"), channels_last=False,
            processes=Processes(rank=rank, devices=count, num_nodes=1),
        )  # fmt: skip
        for batch in batches.epoch([0, 0]):
            first = batch.x[:, 0, 0, 0] * data.preprocessing.std[0] + data.preprocessing.mean[0]
            numbers = (first * 255).round().int().tolist()
            assert [n % 3 for n in numbers] == batch.labels.tolist()
            shown += numbers
    held_out = np.asarray(data.validation.x)[:, 0, 0, 0].tolist()
    assert sorted(shown + held_out) == list(range(30))


def test_targets_may_be_numbers_or_rows_of_different_number(folder):
    def boxes(number):
        return "json", json.dumps([[0, 0, 4, 4, 1]] * (number % 3)).encode()

    shard(folder / "train-000.tar", members(0, target=boxes))
    y = read(folder, "train-000.tar", test=None).train.y
    assert y.shape == (9, 2, 5)
    assert (y[..., 4] >= 0).sum(1).tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]

    def vector(number):
        stream = io.BytesIO()
        np.save(stream, np.full(3, number, np.float32))
        return "npy", stream.getvalue()

    shard(folder / "train-000.tar", members(0, target=vector))
    assert read(folder, "train-000.tar", test=None).train.y[4].tolist() == [4, 4, 4]


def npy_of_objects(number):
    return "npy", b"\x93NUMPY" + pickle.dumps(object())


BAD = {
    "no target": ([("1.png", png(1))], "`1` has no target: png", "member of cls"),
    "no picture": ([("1.cls", b"1")], "`1` has 0 pictures", "member of jpg"),
    "two pictures": (
        [("1.png", png(1)), ("1.jpg", png(1)), ("1.cls", b"0")], "`1` has 2 pictures", "jpg",
    ),
    "twice": ([("1.cls", b"1"), ("1.cls", b"1")], "`1` has two members `.cls`", "side by side"),
    "no number": ([("1.png", png(1)), ("1.cls", b"cat")], "`1`.cls is b'cat'", "class number"),
    "pickled": ([("1.png", png(1)), npy_of_objects(1)], "`1`", "numpy.save"),
    "mixed": (
        [("1.png", png(1)), ("1.json", b"[1]"), ("2.png", png(2)), ("2.json", b"[[1]]")],
        "targets have the shapes", "one shape",
    ),
    "empty": ([], "holds no samples", "side by side"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named_with_its_sample(folder, name):
    content, message, hint = BAD[name]
    named = [(n if "." in n else f"1.{n}", c) for n, c in content]
    shard(folder / "bad.tar", named)
    with pytest.raises(KdeployError, match=message) as caught:
        read(folder, "bad.tar")
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_damaged_picture_is_named_when_it_is_read(folder):
    shard(folder / "bad.tar", [("7.png", b"none"), ("7.cls", b"0"), *members(0)])
    with pytest.raises(KdeployError, match=r"bad\.tar: `7`\.png cannot be decoded"):
        read(folder, "bad.tar")


def test_what_is_no_tar_file_is_refused(folder):
    shard(folder / "bad.tar", members(0), "w:gz")
    with pytest.raises(KdeployError, match="is no plain tar file") as caught:
        read(folder, "bad.tar")
    assert "gunzip" in caught.value.hint
    with pytest.raises(KdeployError, match=r"there is no shard .*train-003\.tar"):
        read(folder, "train-{000..003}.tar")
    with pytest.raises(KdeployError, match="no file matches"):
        read(folder, "nothing-*.tar")


@pytest.mark.parametrize("asked", [True, None])
def test_kept_pictures_are_decoded_once_and_stay_the_same(folder, monkeypatch, asked):
    from kdeploy.data.datasets import webdataset as module

    decoded = []
    picture_from = module.picture_from

    def counted(stream, form, *, where):
        decoded.append(where)
        return picture_from(stream, form, where=where)

    given = {"shards": folder / "train-*.tar", "test": folder / "test.tar", "size": (4, 6)}
    plain = np.asarray(webdataset(**given, keep_decoded=False).train.x)
    monkeypatch.setattr(module, "picture_from", counted)
    kept = webdataset(**given, keep_decoded=asked).train.x
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(kept), plain)
        np.testing.assert_array_equal(kept[[7, 2]], plain[[7, 2]])
    assert len(decoded) == len(set(decoded)) == len(plain)


def test_a_system_without_preadv_reads_them_all_the_same(folder, monkeypatch):
    given = {"shards": folder / "train-*.tar", "test": folder / "test.tar", "size": (4, 6)}
    monkeypatch.delattr("os.preadv")
    kept = webdataset(**given, keep_decoded=True).train.x
    first = np.asarray(kept)
    np.testing.assert_array_equal(kept[[7, 2, 2]], first[[7, 2, 2]])


def test_where_the_disk_is_nearly_full_pictures_are_decoded_each_time(folder, monkeypatch):
    from kdeploy.data import kept_items
    from kdeploy.data.datasets import webdataset as module

    usage = shutil.disk_usage(folder)._replace(free=100)
    monkeypatch.setattr(kept_items.shutil, "disk_usage", lambda _: usage)
    decoded, picture_from = [], module.picture_from

    def counted(stream, form, *, where):
        decoded.append(where)
        return picture_from(stream, form, where=where)

    monkeypatch.setattr(module, "picture_from", counted)
    given = {"shards": folder / "train-*.tar", "test": folder / "test.tar", "size": (4, 6)}
    pictures = webdataset(**given, mean=[0.5] * 3, std=[0.5] * 3).train.x
    for _ in range(2):
        np.asarray(pictures)
    assert len(decoded) == 2 * len(set(decoded)) > 0
