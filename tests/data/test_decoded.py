from __future__ import annotations

import errno
import os

import numpy as np
import pytest
from PIL import Image

from kdeploy.data import decoded as module
from kdeploy.data.decoded import decoded_image, decoded_images
from kdeploy.errors import DataError, Unavailable


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kdeploy" / "images"


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
    return root


def decode(root):
    return decoded_images(root, sorted(root.glob("*.png")), size=(6, 4), channels=3)


def counted(monkeypatch, name):
    calls = []
    function = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: (calls.append(a), function(*a, **k))[1])
    return calls


def test_keeps_images_in_order_and_on_disk(monkeypatch, images):
    monkeypatch.setattr(module, "FILES_AT_ONCE", 2)
    x = decode(images).x
    assert isinstance(x, np.memmap)
    for number, pixels in enumerate(x):
        expected = np.asarray(Image.open(images / f"{number}.png")).transpose(2, 0, 1)
        np.testing.assert_array_equal(pixels, expected)


def test_an_unchanged_folder_is_neither_read_nor_decoded_again(monkeypatch, images):
    first = decode(images)
    read, decodings = counted(monkeypatch, "_contents_key"), counted(monkeypatch, "decoded_image")
    second = decode(images)
    assert (read, decodings) == ([], [])
    assert second.key == first.key
    np.testing.assert_array_equal(second.x, first.x)


def test_a_touched_folder_is_read_but_not_decoded_again(monkeypatch, images):
    first = decode(images)
    os.utime(images / "0.png", ns=(1, 1))
    decodings = counted(monkeypatch, "decoded_image")
    assert decode(images).key == first.key
    assert decodings == []


def test_a_changed_image_is_decoded_anew(images):
    before = decode(images)
    kept = (images / "1.png").stat()
    (images / "0.png").replace(images / "1.png")
    os.utime(images / "1.png", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    after = decode(images)
    assert after.key != before.key
    np.testing.assert_array_equal(after.x[0], before.x[0])


def test_a_damaged_cache_is_written_anew(images, cache):
    expected = np.array(decode(images).x)
    [array] = cache.glob("*.npy")
    array.write_bytes(array.read_bytes()[:-10])
    np.testing.assert_array_equal(decode(images).x, expected)


def test_a_corrupt_image_is_named_and_leaves_nothing(images, cache):
    path = images / "3.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"3\.png cannot be decoded"):
        decode(images)
    assert list(cache.iterdir()) == []


def test_a_full_disk_leaves_nothing_and_says_where(monkeypatch, images, cache):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "_decode", full)
    with pytest.raises(Unavailable, match="No space left on device") as caught:
        decode(images)
    assert str(cache) in str(caught.value)
    assert "XDG_CACHE_HOME" in caught.value.hint
    assert list(cache.iterdir()) == []


def test_resizes_to_height_and_width(images):
    x = decoded_image(images / "0.png", size=(3, 8), channels=3)
    expected = Image.open(images / "0.png").resize((8, 3), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(x, np.asarray(expected).transpose(2, 0, 1))


def test_turns_grey_and_colour_into_what_is_asked(tmp_path):
    grey = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    grey.save(tmp_path / "grey.png")
    colour = decoded_image(tmp_path / "grey.png", size=(3, 4), channels=3)
    assert colour.shape == (3, 3, 4)
    np.testing.assert_array_equal(colour[1], np.asarray(grey))
    grey.convert("RGBA").save(tmp_path / "alpha.png")
    back = decoded_image(tmp_path / "alpha.png", size=(3, 4), channels=1)
    np.testing.assert_array_equal(back[0], np.asarray(grey))


def test_respects_the_orientation_in_exif_data(tmp_path):
    pixels = np.zeros((8, 4, 3), dtype=np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise, to see it upright
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = decoded_image(tmp_path / "turned.png", size=(4, 8), channels=3)
    np.testing.assert_array_equal(upright, np.rot90(pixels, k=-1).transpose(2, 0, 1))


def test_refuses_more_than_eight_bits_a_channel(tmp_path):
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        decoded_image(tmp_path / "deep.png", size=(4, 4), channels=1)
