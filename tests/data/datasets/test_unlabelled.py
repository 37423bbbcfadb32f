"""A data set of items without labels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kdeploy.data.contract import NOT_COUNTED
from kdeploy.data.load import DataReference, load
from kdeploy.errors import DataError

RNG = np.random.default_rng(0)
KNOWN = {"mean": [0.5], "std": [0.25]}


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number in range(20):
        drawn = Image.fromarray(RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        drawn.save(folder / ("deep" if number % 2 else ".") / f"{number}.png")
    return folder


def read(path, **parameters):
    return load(DataReference(name="unlabelled", parameters={"items": str(path), **parameters}))


def test_a_folder_of_images_at_any_depth_is_split_without_overlap(photos):
    data = read(photos, size=[6, 8], **KNOWN)
    parts = [data.train, data.validation, data.test]
    assert [len(part) for part in parts] == [16, 2, 2]
    items = {np.asarray(x).tobytes() for part in parts for x in part.x[:]}
    assert len(items) == 20
    assert data.preprocessing.shape == (3, 6, 8)
    assert all(isinstance(part.x.stored, np.memmap) for part in parts), "it stays on the disk"
    assert (data.preprocessing.mean, data.num_classes) == ((0.5,), 0)
    assert not any(part.is_labelled for part in parts)
    assert set(data.train.y) == {NOT_COUNTED}
    assert any("no accuracy can be measured" in note for note in data.notes)


def test_an_array_is_taken_as_it_is(tmp_path):
    x = RNG.normal(size=(12, 2, 30)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    data = read(tmp_path / "x.npy")
    assert len(data.train) + len(data.validation) + len(data.test) == 12
    assert (data.preprocessing.shape, data.preprocessing.scale) == ((2, 30), 1.0)
    np.savez(tmp_path / "x.npz", x=x)
    assert read(tmp_path / "x.npz").fingerprint == data.fingerprint
    np.savez(tmp_path / "x.npz", x=x + 1)
    assert read(tmp_path / "x.npz", mean=[0.0]).fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("parameters", "says", "hints"),
    [
        ({**KNOWN}, "a folder of images, and `size` is None", "size: [224, 224]"),
        (
            {"size": [6, 6]},
            "holds bytes, and `mean` or `std` is not given",
            "[0.485, 0.456, 0.406]",
        ),
        ({"size": [6, 6], "mean": [0.5]}, "`mean` or `std` is not given", "as the model was"),
    ],
)
def test_what_images_cannot_tell_has_to_be_told(photos, parameters, says, hints):
    with pytest.raises(DataError, match=says) as caught:
        read(photos, **parameters)
    assert hints in caught.value.hint


def test_too_few_items_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", RNG.normal(size=(3, 2, 30)).astype(np.float32))
    with pytest.raises(DataError, match="has 3 items"):
        read(tmp_path / "x.npy")
