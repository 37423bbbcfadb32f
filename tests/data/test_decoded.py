from __future__ import annotations

import errno
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from kdeploy.data import decoded as module
from kdeploy.data.decoded import Form, decoded_image, decoded_images
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
        drawn = rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)
        Image.fromarray(drawn).save(root / f"{number}.png")
    return root


def decode(root):
    return decoded_images(root, sorted(root.glob("*.png")), Form(size=(6, 4), channels=3))


def pixels(path, size, channels, **background):
    return decoded_image(path, Form(size=size, channels=channels, **background)).pixels


def counted(monkeypatch, name):
    calls = []
    function = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: (calls.append(a), function(*a, **k))[1])
    return calls


def test_keeps_images_in_order_and_on_disk(monkeypatch, images):
    monkeypatch.setattr(module, "FILES_AT_ONCE", 2)
    x = decode(images).x
    assert isinstance(x, np.memmap)
    for number, found in enumerate(x):
        expected = np.asarray(Image.open(images / f"{number}.png")).transpose(2, 0, 1)
        np.testing.assert_array_equal(found, expected)


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
    x = pixels(images / "0.png", (3, 8), 3)
    expected = Image.open(images / "0.png").resize((8, 3), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(x, np.asarray(expected).transpose(2, 0, 1))


def test_turns_grey_and_colour_into_what_is_asked(tmp_path):
    grey = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    grey.save(tmp_path / "grey.png")
    colour = pixels(tmp_path / "grey.png", (3, 4), 3)
    assert colour.shape == (3, 3, 4)
    np.testing.assert_array_equal(colour[1], np.asarray(grey))
    grey.convert("RGBA").save(tmp_path / "alpha.png")
    back = pixels(tmp_path / "alpha.png", (3, 4), 1)
    np.testing.assert_array_equal(back[0], np.asarray(grey))


def test_respects_the_orientation_in_exif_data(tmp_path):
    stored = np.zeros((8, 4, 3), dtype=np.uint8)
    stored[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise, to see it upright
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    upright = pixels(tmp_path / "turned.png", (4, 8), 3)
    np.testing.assert_array_equal(upright, np.rot90(stored, k=-1).transpose(2, 0, 1))


def test_refuses_more_than_eight_bits_a_channel(tmp_path):
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        pixels(tmp_path / "deep.png", (4, 4), 1)


ALPHA = np.array([[0, 255], [128, 64]], np.uint8)


def layered(mode):
    """Return a 2 x 2 image of value 40 with `ALPHA`, in a mode that has transparency."""
    grey, alpha = Image.new("L", (2, 2), 40), Image.fromarray(ALPHA)
    image = Image.merge("RGBA", [grey, grey, grey, alpha])
    return image.convert("LA") if mode == "LA" else image


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ground", [(255, 255, 255), (0, 0, 0), (90, 90, 90)])
def test_lays_transparent_pixels_on_the_background(tmp_path, mode, channels, ground):
    layered(mode).save(tmp_path / "a.png")
    share = ALPHA / 255
    expected = share * 40 + (1 - share) * ground[0]
    found = pixels(tmp_path / "a.png", (2, 2), channels, background=ground)
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1)


def test_a_transparent_colour_of_a_palette_is_laid_on_the_background_too(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), mode="P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "p.png", transparency=0)
    form = Form(size=(2, 2), channels=3, background=(1, 2, 3))
    picture = decoded_image(tmp_path / "p.png", form)
    assert picture.is_transparent
    assert picture.pixels[:, 0, 0].tolist() == [1, 2, 3]
    assert picture.pixels[:, 0, 1].tolist() == [200, 100, 50]


def test_counts_what_is_transparent_and_what_holds_several_pictures(images, tmp_path):
    root = tmp_path / "mixed"
    root.mkdir()
    frames = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (10, 200)]
    frames[0].save(root / "0.gif", save_all=True, append_images=frames[1:])
    layered("RGBA").save(root / "1.png")
    Image.new("RGBA", (4, 4), (9, 9, 9, 255)).save(root / "2.png")
    form = Form(size=(4, 4), channels=3)
    for again in (False, True):
        found = decoded_images(root, sorted(root.iterdir()), form)
        assert (found.transparent, found.several) == (1, 1), f"again: {again}"
    told = found.sentences(root, form)
    assert "1 of 3 images" in told[0]
    assert "(255, 255, 255)" in told[0]
    assert "1 of 3 files" in told[1]
    assert found.x[0, 0].max() < 20, "the first picture is taken"


def test_sixteen_bits_of_colour_are_cut_to_the_upper_eight_and_told(tmp_path):
    stored = np.random.default_rng(0).integers(0, 2**16, (4, 3, 3))
    path = tmp_path / "deep.png"
    path.write_bytes(png_of_sixteen_bits(stored))
    form = Form(size=(4, 3), channels=3)
    found = decoded_images(tmp_path, [path], form)
    np.testing.assert_array_equal(found.x[0], (stored >> 8).transpose(2, 0, 1))
    [told] = found.sentences(tmp_path, form)
    assert "1 of 1 files" in told
    assert "the upper 8 are kept" in told


def png_of_sixteen_bits(colours):
    """Return a PNG of (height, width, 3) numbers below 65536; Pillow does not write them."""
    height, width, _ = colours.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts
    )


def test_another_background_is_decoded_anew(images):
    layered("RGBA").save(images / "9.png")
    files = sorted(images.glob("*.png"))
    white = decoded_images(images, files, Form(size=(6, 4), channels=3))
    black = decoded_images(images, files, Form(size=(6, 4), channels=3, background=(0, 0, 0)))
    assert white.key != black.key
    assert (white.x[-1] != black.x[-1]).any()


def test_all_damaged_images_are_counted_and_the_first_named(images):
    for number in range(4):
        (images / f"{number}.png").write_bytes(b"" if number else b"no image")
    with pytest.raises(DataError, match="4 of 5 images cannot be taken") as caught:
        decode(images)
    lines = caught.value.message.splitlines()
    assert "0.png cannot be decoded" in lines[1]
    assert "1.png is empty, 0 bytes" in lines[2]
    assert lines[-1] == "and 1 more"
