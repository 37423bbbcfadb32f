"""Masks: class numbers beside pictures, and what is wrong with those of others."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kdeploy.data.datasets.masks import masks
from kdeploy.errors import KdeployError

VALUES = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], np.uint8)


@pytest.fixture
def folder(tmp_path):
    for part in ("train", "test"):
        for kind in ("images", "masks"):
            (tmp_path / part / kind).mkdir(parents=True)
        for seed, name in enumerate("ab"):
            pixels = np.random.default_rng(seed).integers(0, 256, (2, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / "images" / f"{name}.png")
            Image.fromarray(VALUES).save(tmp_path / part / "masks" / f"{name}.png")
    return tmp_path


def read(folder, **parameters):
    paths = {
        part: {kind: folder / part / kind for kind in ("images", "masks")}
        for part in ("train", "test")
    }
    return masks(**{**paths, "classes": ["ground", "thing"], "size": (4, 8), **parameters})


def test_a_mask_is_resized_to_the_nearest_pixel(folder):
    parts = read(folder)
    assert parts.train.y.dtype == np.uint8
    assert parts.train.y[0].tolist() == VALUES.repeat(2, 0).repeat(2, 1).tolist()


def test_the_bars_of_a_letterbox_have_no_class(folder):
    y = read(folder, size=(8, 8), letterbox=True).train.y
    assert (y[0, :2] == 255).all()
    assert (y[0, 6:] == 255).all()
    assert y[0, 2:6].tolist() == VALUES.repeat(2, 0).repeat(2, 1).tolist()


def test_of_a_palette_the_indices_are_the_classes(folder):
    image = Image.fromarray(VALUES, mode="P")
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.save(folder / "train/masks/a.png")
    assert read(folder).train.y[0, 0, 4] == 1


def save(values, name="a.png", **options):
    return lambda folder: Image.fromarray(values).save(folder / "train/masks" / name, **options)


def replaced(folder):
    (folder / "train/masks/a.png").unlink()
    save(VALUES, "a.jpg")(folder)


def exif_turned(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = folder / "train/images/a.png"
    Image.open(path).save(path, exif=exif)


BAD = {
    "colours": (save(np.zeros((2, 4, 3), np.uint8)), r"masks/a.png is coloured \(mode RGB\)", "L"),
    "unknown class": (
        save(VALUES + 1), r"masks/a.png: there is no class 2, there are 2: 0..1, and 255", "all",
    ),
    "sixteen bits": (
        save(VALUES.astype(np.uint16) * 3), "class numbers from 0 to 765", "0..254",
    ),
    "another size": (
        save(np.zeros((3, 4), np.uint8)),
        "a.png has 4 x 3 pixels, its picture .* has 4 x 2",
        "size",
    ),
    "lossy": (replaced, "a.jpg is a JPEG, which mixes", "PNG"),
    "missing": (
        lambda f: (f / "train/masks/b.png").unlink(), "`b` of .* of 1 pictures and 0 masks", "one",
    ),
    "twice": (save(VALUES, "a.tif"), "`a` of .* of 1 pictures and 2 masks", "one"),
    "empty": (lambda f: (f / "train/masks/a.png").write_bytes(b""), "a.png is empty", "replace"),
    "damaged": (lambda f: (f / "train/masks/a.png").write_bytes(b"x"), "cannot be decoded", "mask"),
    "turned": (exif_turned, "has 4 x 2 pixels, .* has 2 x 4 when it is upright", "upright"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named_with_its_file(folder, name):
    spoil, message, hint = BAD[name]
    spoil(folder)
    with pytest.raises(KdeployError, match=message) as caught:
        read(folder)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_sixteen_bits_of_small_numbers_are_class_numbers(folder):
    save(VALUES.astype(np.uint16))(folder)
    assert read(folder).train.y[0, 0, 4] == 1


def test_masks_that_say_nothing_are_told(folder):
    save(np.full((2, 4), 255, np.uint8))(folder)
    assert any("1 masks of" in note for note in read(folder).notes)
