"""YOLO: text files of boxes, and what is wrong with those of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdeploy.data.datasets.yolo import labels_file, yolo
from kdeploy.errors import KdeployError

LINE = "1 0.5 0.5 0.25 0.5\n"


@pytest.fixture
def folder(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "images").mkdir(parents=True)
        (tmp_path / part / "labels").mkdir()
        for name in "ab":
            pixels = np.random.default_rng(ord(name)).integers(0, 256, (10, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / "images" / f"{name}.png")
        (tmp_path / part / "labels" / "a.txt").write_text(LINE)
    return tmp_path


def read(folder, text=LINE, **parameters):
    (folder / "train" / "labels" / "a.txt").write_text(text)
    given = {"classes": ["cat", "dog"], "size": (20, 40), **parameters}
    return yolo(train=folder / "train/images", test=folder / "test/images", **given)


def test_boxes_lie_in_the_input(folder):
    parts = read(folder)
    assert parts.train.y[0].tolist() == [[15, 5, 25, 15, 1]]
    assert parts.train.y[1].tolist() == [[-0.0 - 1, -1, -1, -1, -1]]
    assert parts.preprocessing.classes == ("cat", "dog")
    assert "1 pictures have no file of labels and show nothing" in " ".join(parts.notes)


def test_the_last_images_of_a_path_becomes_labels():
    found = labels_file(Path("/images/x/images/deep/a.jpg"))
    assert found == Path("/images/x/labels/deep/a.txt")
    assert labels_file(Path("/flat/a.jpg")) == Path("/flat/a.txt")


def test_what_can_be_meant_in_one_way_only_is_taken_and_told(folder):
    text = f"\ufeff{LINE}\r\n{LINE}1.0 0 0 0.5 0 0.5 1\r\n0 0.9 0.5 0.204 0.2\n"
    parts = read(folder, text)
    assert parts.train.y[0].tolist() == [
        [15, 5, 25, 15, 1], [0, 0, 20, 20, 1], pytest.approx([31.92, 8, 40, 12, 0]),
    ]  # fmt: skip
    told = " ".join(parts.notes)
    assert "1 lines were there twice" in told
    assert "1 polygons became their boxes" in told


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("2 0.5 0.5 0.1 0.1", "a.txt:1: there is no class 2, there are 2: 0..1", "from 0"),
        ("7 0.5 0.5 0.1 0.1", "a.txt:1: there is no class 7", "classes"),
        ("0.5 0.5 0.5 0.1 0.1", "there is no class 0.5", "classes"),
        (f"{LINE}\n-1 0.5 0.5 0.1 0.1", "a.txt:3: there is no class -1", "classes"),
        ("cat 0.5 0.5 0.1 0.1", "a.txt:1: `cat 0.5 0.5 0.1 0.1` are not numbers", "class cx"),
        ("0 0,5 0,5 0,1 0,1", "not numbers", "commas"),
        ("0 10 5 4 2", "10 is no part of the picture", "pixels"),
        ("0 0.5 0.5 1.2 0.1", "1.2 is no part of the picture", "class cx"),
        ("0 0.1 0.1 0.8 0.8", "the box reaches from", "centre"),
        ("0 0.5 0.5 0.1", "4 numbers", "class cx"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 numbers", "class cx"),
        ("0 nan 0.5 0.1 0.1", "is no part of the picture", "class cx"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(folder, text, message, hint):
    with pytest.raises(KdeployError, match=message) as caught:
        read(folder, text)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_labels_that_are_no_text_or_nowhere_are_refused(folder):
    (folder / "test/labels/a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KdeployError, match=r"a\.txt is not text"):
        read(folder)
    (folder / "test/labels/a.txt").unlink()
    with pytest.raises(KdeployError, match=r"no picture of .* has a label") as caught:
        read(folder)
    assert "labels/a.txt" in caught.value.hint


def test_the_user_s_files_are_never_written(folder):
    def state():
        return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    before = state()
    read(folder)
    assert state() == before
