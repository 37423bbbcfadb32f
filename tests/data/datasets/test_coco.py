"""COCO: pictures and boxes as the file has them, and what is wrong with files of others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from kdeploy.data.load import DataReference
from kdeploy.data.load import _parts as parts_of
from kdeploy.errors import KdeployError

SIZE = [20, 40]


def picture(path, width, height, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def document():
    """Return two pictures, 20 x 10 and 30 x 30, of which the second shows nothing."""
    return {
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "images": [
            {"id": 1, "file_name": "a.png", "width": 20, "height": 10},
            {"id": 5, "file_name": "b.png", "width": 30, "height": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [2, 1, 4, 5], "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 3, "bbox": [0, 0, 20, 10], "iscrowd": 1},
        ],
    }


@pytest.fixture
def folder(tmp_path):
    for part in ("train", "test"):
        picture(tmp_path / part / "a.png", 20, 10)
        picture(tmp_path / part / "b.png", 30, 30)
        (tmp_path / f"{part}.json").write_text(json.dumps(document()))
    return tmp_path


def read(folder, **parameters):
    given = {
        part: {"images": part, "annotations": f"{part}.json"} for part in ("train", "test")
    } | {"size": SIZE, **parameters}
    return parts_of(DataReference(name="coco", parameters=given, folder=folder))[0]


def changed(folder, change, **parameters):
    found = document()
    change(found)
    (folder / "train.json").write_text(json.dumps(found))
    return read(folder, **parameters)


def test_boxes_lie_in_the_input_and_classes_follow_the_ids(folder):
    parts = read(folder)
    assert parts.preprocessing.classes == ("cat", "dog")
    assert parts.train.x.shape == (2, 3, 20, 40)
    # 20 x 10 in 40 x 20: twice as large, without bars. A crowd is -2 less its class.
    assert parts.train.y[0].tolist() == [[4, 2, 12, 12, 1], [0, 0, 40, 20, -2]]
    assert (parts.train.y[1, :, 4] == -1).all()
    assert parts.preprocessing.resize == "letterbox"


def test_a_square_picture_stands_between_bars_or_is_stretched(folder):
    def of_second(found):
        found["annotations"][0] |= {"image_id": 5, "bbox": [0, 0, 30, 15]}

    boxed = changed(folder, of_second)
    assert boxed.train.y[1, 0].tolist() == [10, 0, 30, 10, 1]
    assert (boxed.train.x[1][:, :, :10] == 114).all()
    stretched = changed(folder, of_second, letterbox=False)
    assert stretched.train.y[1, 0].tolist() == [0, 0, 40, 10, 1]


def test_the_same_pictures_with_other_boxes_are_other_data(folder):
    first = read(folder)
    other = changed(folder, lambda found: found["annotations"][0].update(bbox=[1, 1, 4, 5]))
    assert first.fingerprint == other.fingerprint  # of pictures; `load` adds targets
    assert (first.train.y != other.train.y).any()


def test_a_pixel_too_much_is_cut_and_a_box_without_area_left_out_and_both_are_told(folder):
    def change(found):
        found["annotations"][0]["bbox"] = [15.5, 1, 5, 5]
        found["annotations"].append({"image_id": 5, "category_id": 3, "bbox": [3, 3, 0, 4]})

    parts = changed(folder, change)
    assert parts.train.y[0, 0].tolist() == [31, 2, 40, 12, 1]
    assert (parts.train.y[1, :, 4] == -1).all()
    told = " ".join(parts.notes)
    assert "1 boxes reached up to a pixel over" in told
    assert "annotations[0]" in told
    assert "1 boxes without area were left out (the first: " in told


def entry(key, place, **values):
    return lambda found: found[key][place].update(values)


BAD = {
    "no list": (lambda f: f.pop("images"), "no list `images`", "cocodataset"),
    "no categories": (lambda f: f.update(categories=[]), "no list `categories`", "cocodataset"),
    "no object": (lambda f: f["images"].append(3), r"images\[2\] is 3", "cocodataset"),
    "id is text": (entry("images", 0, id="1"), r"images\[0\]: `id` is '1'", "cocodataset"),
    "twice": (entry("images", 1, id=1), r"images\[1\]: the id 1 is there twice", "own id"),
    "annotation twice": (entry("annotations", 1, id=1), r"annotations\[1\]: the id 1", "own id"),
    "unknown class": (
        entry("annotations", 0, category_id=9),
        r"train.json: annotations\[0\]: there is no `category_id` 9; known: 3, 7", "remove",
    ),
    "unknown image": (
        entry("annotations", 1, image_id=2),
        r"annotations\[1\]: there is no `image_id` 2",
        "remove",
    ),
    "three numbers": (entry("annotations", 0, bbox=[1, 2, 3]), "`bbox` is", "four numbers"),
    "outside": (
        entry("annotations", 0, bbox=[2, 1, 30, 5]),
        r"annotations\[0\]: the box 2, 1, 32, 6 reaches 12 pixels over its picture of 20 x 10",
        "mend",
    ),
    "turned": (
        entry("annotations", 0, bbox=[2, 1, 4, 15]), "reaches 6 pixels", "turned by a quarter",
    ),
    "negative": (entry("annotations", 0, bbox=[5, 1, -2, 3]), "a width of -2", "mend"),
    "another size": (
        entry("images", 0, width=40, height=20), r"\(a.png\) has 40 x 20 pixels, the file has 20 x",
        "in its pixels",
    ),
    "no such file": (entry("images", 0, file_name="c.png"), "c.png, which is not there", "picture"),
    "other classes": (
        lambda f: f["categories"].append({"id": 8, "name": "cow"}), "train and test differ", "all",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named_with_its_place(folder, name):
    change, message, hint = BAD[name]
    with pytest.raises(KdeployError, match=message) as caught:
        changed(folder, change)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_number_that_is_none_is_refused(folder):
    text = json.dumps(document()).replace("[2, 1, 4, 5]", "[2, 1, NaN, 5]")
    (folder / "train.json").write_text(text)
    with pytest.raises(KdeployError, match=r"annotations\[0\]: the box .*nan.* is not finite"):
        read(folder)


def test_a_picture_that_exif_turns_is_annotated_upright(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(folder / "train" / "a.png", 20, 10, exif=exif)
    with pytest.raises(KdeployError, match="the file has 10 x 20 when it is upright") as caught:
        read(folder)
    assert "EXIF" in caught.value.hint

    def upright(found):
        found["images"][0] |= {"width": 10, "height": 20}
        found["annotations"] = [
            {"image_id": 1, "category_id": 3, "bbox": [0, 10, 10, 10]},
        ]

    assert changed(folder, upright).train.y[0, 0].tolist() == [15, 10, 25, 20, 0]


@pytest.mark.parametrize("mode", ["CMYK", "P", "L", "LA", "1", "YCbCr"])
def test_pictures_of_other_kinds_are_read_as_people_see_them(folder, mode):
    ending = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    Image.new("RGB", (20, 10), (255, 255, 255)).convert(mode).save(folder / f"train/a.{ending}")
    parts = changed(folder, entry("images", 0, file_name=f"a.{ending}"))
    assert (parts.train.x[0] > 250).all()


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_damaged_picture_is_named(folder, content):
    path = folder / "train" / "a.png"
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises(KdeployError, match=r"a\.png") as caught:
        read(folder)
    assert caught.value.hint


@pytest.mark.parametrize("content", ["", "{", "[]", "5"])
def test_a_file_that_is_no_document_is_refused(folder, content):
    (folder / "train.json").write_text(content)
    with pytest.raises(KdeployError, match=r"train\.json") as caught:
        read(folder)
    assert caught.value.hint


def test_a_part_has_both_paths_and_no_others(folder):
    for given, message in [
        ({"images": "train"}, "data.train has no `annotations`"),
        ({"images": "train", "annotations": "train.json", "labels": "x"}, "no key `labels`"),
        ({"images": "train", "annotations": "no.json"}, "data.train.annotations: there is no"),
    ]:
        with pytest.raises(KdeployError, match=message) as caught:
            read(folder, train=given)
        assert caught.value.hint
    with pytest.raises(KdeployError, match="two parts are the same"):
        read(folder, test={"images": "train", "annotations": "train.json"})
    with pytest.raises(KdeployError, match="`size` is"):
        read(folder, size=[0, 4])
