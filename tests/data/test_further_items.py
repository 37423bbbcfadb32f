"""Unlabelled items beside the training part: out of a folder of images, or an array."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from kdeploy.data.contract import Split
from kdeploy.data.further_items import NO_LABEL, with_unlabelled
from kdeploy.errors import DataError, FileMissing
from kdeploy.training.views import fingerprint_of_views
from tests.tiny.text import items, sequences

MORE = np.random.default_rng(0).integers(0, 255, (7, 1, 12, 12)).astype(np.uint8)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "more.npy"
    np.save(path, MORE)
    return path


def test_the_items_come_after_the_labelled_ones(tiny_data, saved):
    data = with_unlabelled(tiny_data, saved)
    assert len(data.train) == len(data.train.x) == 96 + 7
    np.testing.assert_array_equal(data.train.x[:96], tiny_data.train.x)
    np.testing.assert_array_equal(data.train.x[96:], MORE)
    np.testing.assert_array_equal(data.train.y[:96], tiny_data.train.y)
    assert set(data.train.y[96:]) == {NO_LABEL}
    assert data.validation is tiny_data.validation


def test_reads_x_of_an_archive(tiny_data, tmp_path, saved):
    np.savez(tmp_path / "more.npz", x=MORE)
    data = with_unlabelled(tiny_data, tmp_path / "more.npz")
    np.testing.assert_array_equal(data.train.x[96:], MORE)
    assert data.fingerprint == with_unlabelled(tiny_data, saved).fingerprint


def test_decodes_images_at_any_depth_as_the_data_are(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("a.png", "deep/deeper/b.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((24, 24), 200, np.uint8)).save(tmp_path / "images" / name)
    data = with_unlabelled(tiny_data, tmp_path / "images")
    np.testing.assert_array_equal(data.train.x[96:], np.full((2, 1, 12, 12), 200))


def test_other_items_are_other_data_also_for_remembered_answers(tiny_data, saved):
    first = with_unlabelled(tiny_data, saved)
    changed = MORE.copy()
    changed[3, 0, 5, 5] ^= 1
    np.save(saved, changed)
    second = with_unlabelled(tiny_data, saved)
    kinds = [tiny_data, first, second]
    assert len({data.fingerprint for data in kinds}) == 3
    assert len({fingerprint_of_views(data, 1) for data in kinds}) == 3


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (MORE.astype(np.float32), "float32, the training part of edges is uint8"),
        (MORE[:, :, :8], r"the shape \(1, 8, 12\), expected \(1, 12, 12\)"),
        (MORE[:0], "is empty"),
    ],
)
def test_refuses_items_that_do_not_fit(x, message, tiny_data, tmp_path):
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DataError, match=message):
        with_unlabelled(tiny_data, tmp_path / "x.npy")


def test_refuses_what_holds_no_items(tiny_data, tmp_path):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "y.npz", y=MORE)
    (tmp_path / "text.npy").write_text("no array")
    for name, error in (("none.npy", FileMissing), ("empty", DataError), ("y.npz", DataError)):
        with pytest.raises(error):
            with_unlabelled(tiny_data, tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        with_unlabelled(tiny_data, tmp_path / "text.npy")


def test_refuses_images_for_data_that_are_none(tiny_data, tmp_path):
    signals = Split(x=np.zeros((8, 1, 5), np.float32), y=np.zeros(8, np.int64))
    shape = replace(tiny_data.preprocessing, shape=(1, 5))
    data = replace(tiny_data, train=signals, preprocessing=shape)
    with pytest.raises(DataError, match="no images of bytes"):
        with_unlabelled(data, tmp_path)


def test_token_ids_may_come_without_labels_where_items_have_them(tmp_path):
    known = items()
    np.save(tmp_path / "more.npy", known.train.x[:9])
    data = with_unlabelled(known, tmp_path / "more.npy")
    assert len(data.train.x) == len(known.train) + 9
    np.save(tmp_path / "other.npy", known.train.x + 1)
    with pytest.raises(DataError, match="the vocabulary has"):
        with_unlabelled(known, tmp_path / "other.npy")


def test_labels_of_tokens_cannot_be_left_out(tmp_path):
    with pytest.raises(DataError, match="are of tokens"):
        with_unlabelled(sequences(), tmp_path / "more.npy")
