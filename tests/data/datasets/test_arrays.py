from __future__ import annotations

import os
import zipfile

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from kdeploy.data.class_targets import read_classes
from kdeploy.data.datasets import arrays as dataset
from kdeploy.data.load import DataReference, load
from kdeploy.errors import DataError, FileMissing


def arrays(**parameters):
    """Return the parts with their classes read, as loading reads them."""
    return read_classes(dataset.arrays(**parameters), where="data")


RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 3, 5, 4), dtype=np.uint8)
SIGNALS = RNG.normal(size=(30, 2, 16)).astype(np.float32)
CLIPS = RNG.integers(0, 256, (30, 1, 2, 5, 4), dtype=np.uint8)
LABELS = np.arange(30) % 3


def stored(path, **named):
    if path.suffix == ".npz":
        np.savez(path, **named)
    elif path.suffix == ".safetensors":
        save_file(named, path)
    else:
        path.mkdir()
        for name, values in named.items():
            np.save(path / f"{name}.npy", values)
    return path


@pytest.fixture
def good(tmp_path):
    return stored(tmp_path / "good.npz", x=IMAGES, y=LABELS)


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ""])
@pytest.mark.parametrize("x", [IMAGES, SIGNALS, CLIPS], ids=["images", "signals", "clips"])
def test_reads_every_form_with_equal_contents(tmp_path, ending, x):
    train = stored(tmp_path / f"train{ending}", x=x, y=LABELS)
    test = stored(tmp_path / f"test{ending}", x=x[:6], y=LABELS[:6])
    parts = arrays(train=train, test=test)
    np.testing.assert_array_equal(parts.train.x, x)
    np.testing.assert_array_equal(parts.test.x, x[:6])
    assert parts.train.y.tolist() == LABELS.tolist()
    assert parts.preprocessing.shape == x.shape[1:]
    assert parts.preprocessing.classes == ("0", "1", "2")


def test_the_form_of_the_files_does_not_change_the_fingerprint(tmp_path):
    fingerprints = set()
    for ending in (".npz", ".safetensors", ""):
        parameters = {
            "train": stored(tmp_path / f"train{ending}", x=IMAGES, y=LABELS),
            "test": stored(tmp_path / f"test{ending}", x=IMAGES[:6], y=LABELS[:6]),
        }
        fingerprints.add(load(DataReference(name="arrays", parameters=parameters)).fingerprint)
    assert len(fingerprints) == 1


def test_a_folder_of_npy_files_stays_on_disk_also_after_the_split(tmp_path):
    parameters = {
        "train": stored(tmp_path / "train", x=IMAGES, y=LABELS),
        "test": stored(tmp_path / "test", x=IMAGES, y=LABELS),
    }
    assert isinstance(arrays(**parameters).train.x, np.memmap)
    data = load(DataReference(name="arrays", parameters=parameters))
    assert not isinstance(data.train.x, np.ndarray)
    both = np.concatenate([data.train.x[:], data.validation.x[:]])
    assert sorted(both.reshape(30, -1).tolist()) == sorted(IMAGES.reshape(30, -1).tolist())


def test_a_set_larger_than_memory_opens(tmp_path, good):
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shape = (2 * memory_bytes // IMAGES[0].nbytes, *IMAGES.shape[1:])
    train = stored(tmp_path / "train", y=LABELS)
    with (train / "x.npy").open("wb") as file:  # sparse: it takes no room on the disk
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + shape[0] * IMAGES[0].nbytes)
    assert arrays(train=train, test=good).train.x.shape == shape


def test_float_goes_in_as_it_is_and_bytes_as_a_fraction_of_255(tmp_path, good):
    floats = stored(tmp_path / "floats.npz", x=SIGNALS, y=LABELS)
    other = stored(tmp_path / "other.npz", x=SIGNALS, y=LABELS)
    preprocessing = arrays(train=floats, test=other).preprocessing
    np.testing.assert_array_equal(preprocessing.apply(SIGNALS), SIGNALS)
    preprocessing = arrays(
        train=good,
        test=stored(tmp_path / "test.npz", x=IMAGES, y=LABELS),
        mean=[0.5],
        std=[0.25, 0.5, 1.0],
    ).preprocessing
    expected = (IMAGES / 255 - 0.5) / np.array([0.25, 0.5, 1.0]).reshape(3, 1, 1)
    np.testing.assert_allclose(preprocessing.apply(IMAGES), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("classes", "expected"), [(["a", "b", "c"], ("a", "b", "c")), (4, ("0", "1", "2", "3"))]
)
def test_classes_may_be_names_or_a_number(tmp_path, good, classes, expected):
    test = stored(tmp_path / "test.npz", x=IMAGES, y=LABELS)
    assert arrays(train=good, test=test, classes=classes).preprocessing.classes == expected


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ""])
@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"x": IMAGES, "labels": LABELS}, "has no `y`, found"),
        ({"images": IMAGES}, "has no `x`, found"),
        ({"x": IMAGES[:, 0, 0], "y": LABELS}, r"x is uint8 of shape \(30, 4\)"),
        ({"x": SIGNALS.astype(np.float64), "y": LABELS}, "x is float64"),
        ({"x": CLIPS[:, None], "y": LABELS}, "neither an image, a signal nor a clip"),
        ({"x": IMAGES, "y": LABELS + np.float32(0.5)}, r"2\.5 in 30 items, e\.g\. 0\.5 at item 0"),
        ({"x": IMAGES, "y": IMAGES[:, 0]}, "labels must be one number an item"),
        ({"x": IMAGES, "y": LABELS - 1}, "label -1 at item 0 is negative"),
    ],
)
def test_names_the_file_and_what_is_wrong_in_it(tmp_path, good, ending, named, message):
    bad = stored(tmp_path / f"bad{ending}", **named)
    with pytest.raises(DataError, match=message) as caught:
        arrays(train=bad, test=good)
    assert str(bad) in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("names", [("images", "labels"), ("X", "Y"), ("data", "target")])
def test_arrays_of_other_names_are_told_the_line_that_renames_them(
    tmp_path, monkeypatch, good, names
):
    bad = stored(tmp_path / "bad.npz", **dict(zip(names, (IMAGES, LABELS), strict=True)))
    with pytest.raises(DataError, match="has no `x`") as caught:
        arrays(train=bad, test=good)
    monkeypatch.chdir(tmp_path)
    exec(caught.value.hint.split("`")[1], {"np": np})
    assert len(arrays(train=bad, test=good).train.x) == len(IMAGES)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (IMAGES, LABELS + 1, "label 3 at item 2 is out of range"),
        (IMAGES[:, :1], LABELS, r"shape \(1, 5, 4\), expected \(3, 5, 4\)"),
        (IMAGES[:7], LABELS, "7 items but 30 labels"),
    ],
)
def test_the_test_part_must_fit_the_training_part(tmp_path, good, x, y, message):
    bad = stored(tmp_path / "bad.npz", x=x, y=y)
    reference = DataReference(name="arrays", parameters={"train": str(good), "test": str(bad)})
    with pytest.raises(DataError, match=message) as caught:
        load(reference)
    assert str(bad) in str(caught.value)


def test_a_nan_is_found(tmp_path):
    spoilt = SIGNALS.copy()
    spoilt[17, 1, 3] = np.nan
    parameters = {
        "train": stored(tmp_path / "train.npz", x=spoilt, y=LABELS),
        "test": stored(tmp_path / "test.npz", x=SIGNALS, y=LABELS),
    }
    with pytest.raises(DataError, match=r"item 17 of x holds a value that is NaN"):
        load(DataReference(name="arrays", parameters=parameters))


def test_bytes_and_floats_do_not_mix(tmp_path, good):
    floats = stored(tmp_path / "floats.npz", x=IMAGES.astype(np.float32), y=LABELS)
    with pytest.raises(DataError, match=r"x is uint8 in .* but float32 in"):
        arrays(train=good, test=floats)


def test_train_cannot_be_test(good):
    with pytest.raises(DataError, match="same file"):
        arrays(train=good, test=good.parent / "." / good.name)


def test_a_missing_file_is_named(tmp_path, good):
    with pytest.raises(FileMissing, match=r"there is no .*none\.npz"):
        arrays(train=good, test=tmp_path / "none.npz")


@pytest.mark.parametrize("name", ["data.csv", "data"])
def test_other_files_are_refused_with_the_forms_that_work(tmp_path, good, name):
    (tmp_path / name).write_text("1,2,3")
    with pytest.raises(DataError) as caught:
        arrays(train=tmp_path / name, test=good)
    assert ".npz or .safetensors" in caught.value.hint


@pytest.mark.parametrize("name", ["bad.npz", "bad.safetensors"])
@pytest.mark.parametrize("kept", [0, 3, 40, 700])
def test_a_truncated_file_is_refused(tmp_path, good, name, kept):
    whole = stored(tmp_path / name, x=IMAGES, y=LABELS)
    whole.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(DataError, match="cannot be read"):
        arrays(train=whole, test=good)


def test_a_truncated_npy_is_refused(tmp_path, good):
    folder = stored(tmp_path / "bad", x=IMAGES, y=LABELS)
    (folder / "x.npy").write_bytes((folder / "x.npy").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"x\.npy cannot be read"):
        arrays(train=folder, test=good)


@pytest.mark.parametrize("name", ["bad.npz", "bad"])
def test_nothing_pickled_is_read(tmp_path, good, name):
    pickled = np.array([{"any": "object"}], dtype=object)
    with pytest.raises(DataError, match="cannot be read"):
        arrays(train=stored(tmp_path / name, x=pickled, y=LABELS), test=good)


IDS = RNG.integers(0, 9, (30, 5)).astype(np.int32)


def test_integers_of_two_axes_are_token_ids(tmp_path):
    train = stored(tmp_path / "train.npz", x=IDS, y=LABELS)
    test = stored(tmp_path / "test.npz", x=IDS[:9], y=LABELS[:9])
    parts = arrays(train=train, test=test)
    assert (parts.preprocessing.dtype, parts.preprocessing.vocabulary) == ("int64", 9)
    assert parts.preprocessing.shape == (5,)
    np.testing.assert_array_equal(parts.preprocessing.apply(parts.train.x), IDS)
    assert arrays(train=train, test=test, vocabulary=50).preprocessing.vocabulary == 50


def test_labels_may_be_of_every_token(tmp_path):
    train = stored(tmp_path / "train.npz", x=IDS, y=IDS)
    parts = arrays(train=train, test=stored(tmp_path / "test.npz", x=IDS[:9], y=IDS[:9]))
    assert parts.train.y.ndim == 2
    assert len(parts.preprocessing.classes) == 9


def test_token_ids_have_no_mean(tmp_path):
    paths = [stored(tmp_path / f"{part}.npz", x=IDS, y=LABELS) for part in ("train", "test")]
    with pytest.raises(DataError, match="no mean"):
        arrays(train=paths[0], test=paths[1], mean=[0.5])


def test_a_validation_file_is_the_validation_part(tmp_path, good):
    more = {part: stored(tmp_path / f"{part}.npz", x=IMAGES[:9] + 1, y=LABELS[:9]) for part in "ab"}
    parameters = {"train": good, "test": more["a"], "validation": more["b"]}
    data = load(DataReference(name="arrays", parameters=parameters))
    assert (len(data.train), len(data.validation), data.is_validation_given) == (30, 9, True)
    np.testing.assert_array_equal(data.validation.x, IMAGES[:9] + 1)
    without = load(DataReference(name="arrays", parameters={"train": good, "test": more["a"]}))
    assert data.fingerprint != without.fingerprint
    with pytest.raises(DataError, match="test and validation are the same file"):
        arrays(train=good, test=more["a"], validation=more["a"])


def test_the_items_to_calibrate_on_may_be_a_folder_of_images(tmp_path, good, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    other = stored(tmp_path / "other.npz", x=IMAGES, y=LABELS)
    (tmp_path / "photos").mkdir()
    Image.fromarray(IMAGES[0].transpose(1, 2, 0)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "list.txt").write_text("no image")
    parts = arrays(train=good, test=other, unlabelled=tmp_path / "photos")
    np.testing.assert_array_equal(parts.unlabelled, IMAGES[:1])
    assert "list.txt" in parts.notes[0]
    floats = [stored(tmp_path / f"{n}.npz", x=IMAGES / np.float32(9), y=LABELS) for n in "ab"]
    with pytest.raises(DataError, match="has no images of bytes"):
        arrays(train=floats[0], test=floats[1], unlabelled=tmp_path / "photos")


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ""])
def test_what_else_a_file_holds_is_told_and_not_read(tmp_path, good, ending):
    more = {"mask": IMAGES[:, 0], "weight": LABELS}
    rich = stored(tmp_path / f"rich{ending}", x=IMAGES, y=LABELS, **more)
    parts = arrays(train=rich, test=good)
    assert parts.notes == (f"{rich}: of `mask`, `weight` nothing is read, only `x` and `y`",)


def test_an_object_array_that_nobody_reads_does_no_harm(tmp_path, good):
    names = np.array([{"any": "object"}], dtype=object)
    rich = stored(tmp_path / "rich.npz", x=IMAGES, y=LABELS, names=names)
    assert len(arrays(train=rich, test=good).train) == 30


def test_a_member_twice_is_refused(tmp_path, good):
    twice = tmp_path / "twice.npz"
    twice.write_bytes(good.read_bytes())
    member = zipfile.ZipFile(good).read("x.npy")
    with zipfile.ZipFile(twice, "a") as other, pytest.warns(UserWarning, match="Duplicate name"):
        other.writestr("x.npy", member)
    with pytest.raises(DataError, match=r"holds `x\.npy` twice"):
        arrays(train=twice, test=good)


@pytest.mark.parametrize("name", ["fortran.npz", "fortran"])
def test_the_order_in_memory_changes_nothing(tmp_path, good, name):
    fortran = stored(tmp_path / name, x=np.asfortranarray(IMAGES), y=LABELS)
    plain = stored(tmp_path / "plain.npz", x=IMAGES, y=LABELS)
    found = [
        load(DataReference(name="arrays", parameters={"train": str(p), "test": str(good)}))
        for p in (fortran, plain)
    ]
    assert found[0].fingerprint == found[1].fingerprint
    np.testing.assert_array_equal(found[0].train.x[3:7], found[1].train.x[3:7])


@pytest.mark.parametrize("classes", [["a", "b", "a"], -3, 10**9])
def test_classes_that_cannot_be_are_refused(good, tmp_path, classes):
    other = stored(tmp_path / "other.npz", x=IMAGES, y=LABELS)
    with pytest.raises(DataError, match=r"two classes are called `a`|`classes` would be"):
        arrays(train=good, test=other, classes=classes)


TYPES = "uint8 int8 uint16 int64 uint64 float16 float32 float64 >f4 bool complex64 U3 datetime64[D]"


def any_array(rng, shapes):
    """Return numbers, names or dates in one of these shapes, now and then with a NaN."""
    shape, dtype = shapes[rng.integers(len(shapes))], rng.choice(TYPES.split())
    count = int(np.prod(shape))
    values = [np.zeros(count), rng.integers(-9, 400, count), rng.normal(size=count)]
    drawn = [*values, np.arange(count) % 3, np.full(count, -100)][rng.integers(5)]
    with np.errstate(invalid="ignore"):
        made = drawn.astype(np.int64 if dtype.startswith("date") else dtype).astype(dtype)
    if made.dtype.kind == "f" and count and rng.random() < 0.1:
        made[0] = np.nan
    return made.reshape(shape)


@pytest.mark.parametrize("seed", range(120))
def test_whatever_arrays_hold_they_are_taken_or_refused_with_a_hint(tmp_path, seed):
    rng = np.random.default_rng(seed)
    items = [(9,), (9, 5), (9, 1, 6), (9, 3, 4, 4), (9, 4, 4, 1), (), (0,), (9, 0, 3)]
    labels = [(9,), (9,), (9, 1), (9, 3), (9, 2, 2), (), (0,), (8,), (9, 0)]
    good = {"x": rng.integers(0, 256, (9, 3, 4, 4), dtype=np.uint8), "y": np.arange(9) % 3}
    for name in ("train", "test", "validation"):
        named = dict(good)
        if rng.random() < 0.4:
            named["x"] = any_array(rng, items)
        if rng.random() < 0.6:
            named["y"] = any_array(rng, labels)
        np.savez(tmp_path / f"{name}.npz", **named)
    np.save(tmp_path / "more.npy", any_array(rng, items))
    more = {"validation": "validation.npz"} if seed % 3 == 0 else {}
    more |= {"unlabelled": "more.npy"} if seed % 4 == 0 else {}
    parameters = {"train": "train.npz", "test": "test.npz", **more}
    reference = DataReference(name="arrays", parameters=parameters, folder=tmp_path)
    if seed % 7 == 0:
        known = {"items": "train.npz", "mean": [0.5], "std": [0.2]}
        reference = DataReference(name="unlabelled", parameters=known, folder=tmp_path)
    found, hint = loaded_or_hint(reference)
    assert hint or found.train.y.dtype == np.int64
    assert hint or np.isfinite(found.preprocessing.apply(found.train.x[:2])).all()


def loaded_or_hint(reference):
    try:
        return load(reference), None
    except DataError as error:
        return None, error.hint
