from __future__ import annotations

import textwrap

import numpy as np
import pytest

from kdeploy.data import own_function
from kdeploy.data.class_targets import read_classes
from kdeploy.data.load import DataReference, load
from kdeploy.errors import DataError, FileMissing, UnknownName


def parts_of(name, parameters, *, folder):
    """Return the parts with their classes read, as loading reads them."""
    return read_classes(own_function.parts_of(name, parameters, folder=folder), where="data")


X = np.arange(24, dtype=np.float32).reshape(3, 1, 8)
SOURCE = """
    import numpy as np
    from kdeploy.data.contract import Parts, Preprocessing, Split

    def blobs(*, count=24, spread=1.0, **more):
        rng = np.random.default_rng(0)
        y = np.arange(count) % 2
        x = rng.normal(size=(count, 1, 8)) * spread + y[:, None, None]
        x = x.astype("float32")
        return {"x_train": x, "y_train": y, "x_test": x[:6], "y_test": y[:6], **more}

    def as_parts(*, count):
        d = blobs(count=count)
        return Parts(
            train=Split(x=d["x_train"], y=d["y_train"]),
            test=Split(x=d["x_test"], y=d["y_test"]),
            preprocessing=Preprocessing(shape=(1, 8), classes=("low", "high")),
        )

    def as_bytes():
        d = blobs()
        return {k: v.astype("uint8") for k, v in d.items()} | {"classes": ["a", "b"]}

    def words():
        x = np.arange(24).reshape(12, 2)
        y = x % 3
        return {"x_train": x, "y_train": y, "x_test": x[:6], "y_test": y[:6], "vocabulary": 50}

    def nothing():
        pass

    def fails():
        return {}["gone"]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data.py").write_text(textwrap.dedent(SOURCE))
    return tmp_path


def test_a_dictionary_becomes_parts(folder):
    options = {"classes": 3, "mean": 0.5, "std": [2.0], "licence": "MIT"}
    parts = parts_of("data.py:blobs", {"count": 40, **options}, folder=folder)
    assert parts.train.x.shape == (40, 1, 8)
    assert parts.preprocessing.classes == ("0", "1", "2")
    assert (parts.preprocessing.mean, parts.preprocessing.std) == ((0.5,), (2.0,))
    assert (parts.preprocessing.scale, parts.licence) == (1.0, "MIT")


def test_bytes_are_scaled_and_class_names_are_kept(folder):
    preprocessing = parts_of("data.py:as_bytes", {}, folder=folder).preprocessing
    assert (preprocessing.scale, preprocessing.classes) == (1 / 255, ("a", "b"))


def test_parts_are_taken_as_they_are(folder):
    parts = parts_of("data.py:as_parts", {"count": 10}, folder=folder)
    assert parts.preprocessing.classes == ("low", "high")


def test_loads_by_reference(folder):
    data = load(DataReference(name="data.py:blobs", parameters={"count": 30}, folder=folder))
    assert (len(data.train), len(data.validation), len(data.test)) == (26, 4, 6)
    assert data.train.x.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "parameters", "kind", "message"),
    [
        ("other.py:blobs", {}, FileMissing, r"there is no file .*other\.py"),
        ("data.py:blob", {}, UnknownName, r"no function `blob` in .*data\.py"),
        ("data.py:as_parts", {"number": 3}, UnknownName, "no key `number`"),
        ("data.py:as_parts", {}, DataError, "missing a required .*argument: 'count'"),
        ("data.py:nothing", {}, DataError, "returned NoneType"),
        ("data.py:fails", {}, DataError, r"failed: KeyError: 'gone' \(.*data\.py:\d+, in fails"),
        ("data.py:blobs", {"name": "x"}, UnknownName, "no key `name`"),
        ("data.py:blobs", {"x_test": [1, 2]}, DataError, "`x_test` must be an array, found list"),
        ("data.py:blobs", {"y_train": np.ones(24)}, DataError, r"y_train: labels begin at 1 \(1\)"),
        ("data.py:blobs", {"x_validation": X}, DataError, "`y_validation` must be an array"),
        ("data.py:blobs", {"scale": "large"}, DataError, "`scale` is 'large'"),
        ("data.py:blobs", {"mean": {"r": 1}}, DataError, r"`mean` is \{'r': 1\}"),
        ("data.py:blobs", {"std": None}, DataError, "`std` is None"),
        ("data.py:blobs", {"classes": [["a"], ["b", "c"]]}, DataError, "`classes` is"),
        ("data.py:blobs", {"classes": 2.5}, DataError, r"`classes` would be 2\.5"),
    ],
)
def test_what_cannot_be_used_is_one_clear_error(folder, name, parameters, kind, message):
    with pytest.raises(kind, match=message) as caught:
        parts_of(name, parameters, folder=folder)
    assert caught.value.hint


def test_a_third_part_is_the_validation_part(folder):
    more = {"x_validation": X, "y_validation": np.array([0, 1, 1])}
    parts = parts_of("data.py:blobs", more, folder=folder)
    np.testing.assert_array_equal(parts.validation.x, X)
    assert parts.validation.y.tolist() == [0, 1, 1]


def test_items_without_labels_may_come_too(folder):
    parts = parts_of("data.py:blobs", {"x_unlabelled": X}, folder=folder)
    np.testing.assert_array_equal(parts.unlabelled, X)
    with pytest.raises(DataError, match="`x_unlabelled` must be an array, found list"):
        parts_of("data.py:blobs", {"x_unlabelled": [1, 2]}, folder=folder)


def test_labels_are_converted_and_classes_may_be_an_array(folder):
    more = {"y_train": np.arange(24) % 2 > 0, "classes": np.array(["low", "high"])}
    parts = parts_of("data.py:blobs", more, folder=folder)
    assert parts.train.y.tolist() == [0, 1] * 12
    assert parts.notes == (
        "data `data.py:blobs`, y_train: labels False and True are taken as classes 0 and 1",
    )
    assert parts.preprocessing.classes == ("low", "high")


def test_a_file_that_is_no_python_is_one_clear_error(folder):
    (folder / "data.py").write_text("def broken(:")
    with pytest.raises(
        DataError, match=r"data\.py failed: SyntaxError: .*\(.*data\.py:1: `def broken\(:`\)"
    ):
        parts_of("data.py:blobs", {}, folder=folder)


def test_integers_of_two_axes_are_token_ids(folder):
    parts = parts_of("data.py:words", {}, folder=folder)
    known = parts.preprocessing
    assert (known.shape, known.dtype, known.vocabulary) == ((2,), "int64", 50)
    assert parts.test.y.ndim == 2
