"""Hugging Face `datasets`: folders that the library wrote, and what is wrong with names."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kdeploy.data.datasets.hf import hf
from kdeploy.errors import KdeployError

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (4, 6, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hf") / "data"
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "boxes": datasets.Sequence(datasets.Sequence(datasets.Value("float32"))),
        }
    )
    parts = {
        name: datasets.Dataset.from_dict(
            {
                "image": [Image.fromarray(pixels(n + start)) for n in range(6)],
                "label": [n % 2 for n in range(6)],
                "boxes": [[[0.0, 0.0, 3.0, 3.0, 1.0]] * (1 + n % 2) for n in range(6)],
            },
            features=features,
        )
        for name, start in (("train", 0), ("test", 10))
    }
    datasets.DatasetDict(parts).save_to_disk(str(path))
    return path


def read(folder, **parameters):
    return hf(**{"dataset": str(folder), "size": (4, 6), **parameters})


def test_pictures_and_classes_are_those_of_the_columns(folder):
    parts = read(folder)
    expected = np.stack([pixels(n).transpose(2, 0, 1) for n in range(6)])
    np.testing.assert_array_equal(np.asarray(parts.train.x), expected)
    assert parts.train.y.tolist() == [0, 1, 0, 1, 0, 1]
    assert parts.preprocessing.classes == ("cat", "dog")
    assert parts.fingerprint == read(folder).fingerprint


def test_lists_of_different_length_are_filled_up(folder):
    y = read(folder, target="boxes").train.y
    assert y.shape == (6, 2, 5)
    assert (y[0, 1] == -1).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"image": "picture"}, "no column `picture`"),
        ({"target": "labels"}, "no column `labels`"),
        ({"train": "tain"}, "no split `tain`"),
        ({"image": "label"}, "the picture of row 0 cannot be decoded"),
    ],
)
def test_what_is_wrong_is_named(folder, parameters, message):
    with pytest.raises(KdeployError, match=message) as caught:
        read(folder, **parameters)
    assert caught.value.hint


def test_what_cannot_be_had_is_said(tmp_path):
    with pytest.raises(KdeployError, match="cannot be had") as caught:
        read(tmp_path / "nothing")
    assert caught.value.exit_code == 3
    assert "save_to_disk" in caught.value.hint
