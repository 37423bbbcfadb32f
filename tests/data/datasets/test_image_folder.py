from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from kdeploy.data.datasets.digits import digits
from kdeploy.data.datasets.image_folder import image_folder
from kdeploy.data.load import DataReference, load
from kdeploy.errors import DataError, FileMissing


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Return a folder with train and test of 300 and 100 digits as PNG files."""
    root = tmp_path_factory.mktemp("digits")
    parts = digits(size=16)
    for name, part, count in (("train", parts.train, 300), ("test", parts.test, 100)):
        for number in range(count):
            folder = root / name / str(part.y[number])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(part.x[number, 0]).save(folder / f"{number:04d}.png")
    return root


@pytest.fixture
def root(written, tmp_path):
    """Return a copy that a test may spoil."""
    return shutil.copytree(written, tmp_path / "copy")


def read(root, **parameters):
    return image_folder(
        train=root / "train", test=root / "test", size=(16, 16), channels=1, **parameters
    )


def test_holds_the_images_of_each_class_folder(written):
    parts = read(written)
    expected = digits(size=16)
    for part, origin, count in (
        (parts.train, expected.train, 300),
        (parts.test, expected.test, 100),
    ):
        order = np.argsort(origin.y[:count], kind="stable")
        np.testing.assert_array_equal(part.x, origin.x[:count][order])
        np.testing.assert_array_equal(part.y, origin.y[:count][order])
    assert parts.preprocessing.classes == tuple("0123456789")


def test_mean_and_std_are_those_of_the_training_images_unless_given(written):
    seen = read(written).preprocessing.apply(read(written).train.x)
    assert abs(float(seen.mean())) < 1e-3
    assert float(seen.std()) == pytest.approx(1, abs=1e-3)
    given = read(written, mean=[0.5], std=[0.25]).preprocessing
    assert (given.mean, given.std) == ((0.5,), (0.25,))


def test_loads_by_reference_relative_to_its_folder(written):
    parameters = {"train": "train", "test": "test", "size": [16, 16], "channels": 1}
    data = load(DataReference(name="image_folder", parameters=parameters, folder=written))
    assert len(data.train) + len(data.validation) == 300
    assert data.train.x[5:9].shape == (4, 1, 16, 16)
    assert data.parameters["train"] == "train"


def test_a_copy_of_the_folder_has_the_same_fingerprint_and_a_changed_one_another(root, written):
    first, copied = read(written).fingerprint, read(root).fingerprint
    assert copied == first
    image = next((root / "test" / "4").iterdir())
    Image.open(image).rotate(90).save(image)
    assert read(root).fingerprint != first


def test_images_in_deeper_folders_count_and_other_files_do_not(root):
    image = next((root / "train" / "4").iterdir())
    (root / "train" / "4" / "more").mkdir()
    image.rename(root / "train" / "4" / "more" / "upper.PNG")
    (root / "train" / "4" / "Thumbs.db").write_text("no image")
    (root / "train" / ".hidden").mkdir()
    assert len(read(root).train) == 300


def test_an_empty_folder_is_refused(root):
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    with pytest.raises(DataError, match="train holds no class folders"):
        read(root)


def test_images_without_class_folders_are_refused(root):
    flat = root / "flat"
    flat.mkdir()
    shutil.copy(next((root / "train" / "0").iterdir()), flat)
    with pytest.raises(DataError, match="flat holds no class folders") as caught:
        image_folder(train=flat, test=root / "test", size=(16, 16))
    assert "FOLDER/CLASS/IMAGE" in caught.value.hint


def test_an_empty_class_is_named(root):
    shutil.rmtree(root / "test" / "7")
    (root / "test" / "7").mkdir()
    with pytest.raises(DataError, match=r"test/7 holds no images"):
        read(root)


@pytest.mark.parametrize("part", ["train", "test"])
def test_class_folders_must_be_the_same(root, part):
    shutil.rmtree(root / part / "3")
    with pytest.raises(DataError, match=rf"class folder `3` is in .* but not in .*{part}"):
        read(root)


def test_a_missing_folder_is_named(root):
    with pytest.raises(FileMissing, match=r"there is no folder .*nothing"):
        image_folder(train=root / "nothing", test=root / "test", size=(16, 16))


def test_train_cannot_be_test(root):
    with pytest.raises(DataError, match="same folder"):
        image_folder(train=root / "train", test=root / "test" / ".." / "train", size=(16, 16))


def test_a_corrupt_image_is_named(root):
    image = sorted((root / "test" / "5").iterdir())[0]
    image.write_bytes(b"not an image")
    with pytest.raises(DataError, match=f"{image} cannot be decoded"):
        read(root)


def test_a_size_of_nothing_is_refused(root):
    with pytest.raises(DataError, match="`size` is"):
        image_folder(train=root / "train", test=root / "test", size=(0, 16))


def test_what_is_passed_over_is_told_and_counted(root):
    box = root / "train" / "4"
    count = len(list(box.iterdir()))
    shutil.copy(next(box.iterdir()), box / "web.JFIF")
    shutil.copy(next(box.iterdir()), box / "picture.download")
    (box / "notes.txt").write_text("no image")
    (box / ".DS_Store").write_text("no image")
    (box / "gone.png").symlink_to(root / "nowhere.png")
    (root / "test" / "0" / "self").symlink_to("self")
    (root / "train" / "readme.md").write_text("no image")
    (root / "train" / "lost.png").write_text("no image")
    for number in range(7):
        (root / "test" / "4" / f"{number}.txt").write_text("no image")
    parts = read(root)
    assert int((parts.train.y == 4).sum()) == count + 1, "the .JFIF is an image"
    told = "\n".join(parts.notes)
    assert f"{root}/train/lost.png (an image in no class folder)" in told
    assert "readme.md (its ending is not that of an image)" in told
    assert "4/.DS_Store (hidden)" in told
    assert "gone.png (a link that leads nowhere)" in told
    [rest] = [note for note in parts.notes if f"more of {root / 'train'} (" in note]
    assert rest.startswith("left out: 1 more of")
    [rest] = [note for note in parts.notes if f"more of {root / 'test'} (" in note]
    assert rest.startswith("left out: 3 more of")
    assert rest.endswith("(3: its ending is not that of an image)")
    assert "0/self (a link that leads nowhere)" in told


def test_an_image_under_another_ending_is_told_by_what_it_holds(root):
    box = root / "train" / "4"
    next(box.iterdir()).rename(box / "picture.download")
    [note] = read(root).notes
    assert note.endswith("though it holds PNG: rename it)")


def test_links_to_folders_and_files_are_followed_once(root, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(root / "train" / "4", elsewhere / "deep")
    count = len(list((elsewhere / "deep").iterdir()))
    box = root / "train" / "4"
    (box / "more").symlink_to(elsewhere)
    (box / "again").symlink_to(elsewhere)
    (elsewhere / "deep" / "loop").symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(box)
    (box / "twice.png").symlink_to(elsewhere / "deep" / next((elsewhere / "deep").glob("*.png")))
    parts = read(root)
    assert int((parts.train.y == 4).sum()) == 2 * count
    told = [note for note in parts.notes if "a link to what is read already" in note]
    assert len(told) == 4


def test_one_file_is_not_in_two_parts_or_classes(root):
    (root / "test" / "4" / "link.png").symlink_to(next((root / "train" / "4").iterdir()))
    with pytest.raises(DataError, match=r"link\.png is in .*train/4 too: a link makes one"):
        read(root)


def test_a_validation_folder_is_the_validation_part(root):
    (root / "validation").mkdir()
    for name in "0123456789":
        (root / "validation" / name).mkdir()
        image = next((root / "train" / name).iterdir())
        image.rename(root / "validation" / name / image.name)
    parameters = {part: part for part in ("train", "test", "validation")}
    parameters |= {"size": [16, 16], "channels": 1}
    data = load(DataReference(name="image_folder", parameters=parameters, folder=root))
    assert (len(data.train), len(data.validation)) == (290, 10)
    assert data.is_validation_given
    assert data.validation.y.tolist() == list(range(10))


def test_a_folder_of_images_without_labels_is_what_is_calibrated_on(root):
    plain = read(root)
    (root / "photos" / "deep").mkdir(parents=True)
    for number, image in enumerate(sorted((root / "train" / "4").iterdir())[:5]):
        shutil.copy(image, root / "photos" / "deep" / f"{number}.png")
    (root / "photos" / "list.txt").write_text("no image")
    parts = read(root, unlabelled=root / "photos")
    assert parts.unlabelled.shape == (5, 1, 16, 16)
    assert [note for note in parts.notes if "list.txt" in note]
    assert parts.fingerprint != plain.fingerprint


def test_a_data_set_drawn_in_the_alpha_channel_is_laid_on_white_and_told(tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(3):
                drawn = np.zeros((4, 4, 4), np.uint8)
                drawn[..., 3] = rng.integers(0, 2, (4, 4)) * 255
                Image.fromarray(drawn).save(tmp_path / part / name / f"{number}.png")

    def loaded(**more):
        parameters = {"train": "train", "test": "test", "size": [4, 4], **more}
        return load(DataReference(name="image_folder", parameters=parameters, folder=tmp_path))

    data = loaded()
    assert {int(v) for v in np.unique(np.asarray(data.test.x))} == {0, 255}
    assert "6 of 6 images of" in data.notes[0]
    assert data.preprocessing.background == (255, 255, 255)
    with pytest.raises(DataError, match="all 6 items are the same: every value is 0") as caught:
        loaded(background=[0, 0, 0])
    assert "background" in caught.value.hint
    with pytest.raises(DataError, match=r"`background` is \(0, 0, 256\)"):
        loaded(background=[0, 0, 256])


def test_what_is_no_file_is_not_waited_for(root):
    os.mkfifo(root / "train" / "4" / "pipe.png")
    [note] = read(root).notes
    assert note.endswith("4/pipe.png (not a regular file)")
