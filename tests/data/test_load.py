from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kdeploy.data.load import DataReference, load
from kdeploy.errors import DataError, RecipeError, UnknownName

X = np.random.default_rng(0).integers(0, 256, (50, 1, 4, 4), dtype=np.uint8)
Y = np.arange(50) % 5


@pytest.fixture
def own(tmp_path):
    """Return a function that makes a reference to arrays of 50 and 10 items."""

    def make(folder="one", *, x=X, y=Y, x_test=X[:10], parameters=None, **fields):
        (tmp_path / folder).mkdir(exist_ok=True)
        np.savez(tmp_path / folder / "train.npz", x=x, y=y)
        np.savez(tmp_path / folder / "test.npz", x=x_test, y=Y[:10])
        parameters = {"train": "train.npz", "test": Path("test.npz"), **(parameters or {})}
        return DataReference(
            name="arrays", parameters=parameters, folder=tmp_path / folder, **fields
        )

    return make


def rows_of(split):
    return {image.tobytes() for image in split.x}


def test_splits_validation_off_train_and_leaves_test_alone(own):
    data = load(own(validation_fraction=0.2))
    assert (len(data.train), len(data.validation)) == (40, 10)
    assert np.bincount(data.validation.y).tolist() == [2] * 5
    assert rows_of(data.train).isdisjoint(rows_of(data.validation))
    assert rows_of(data.train) | rows_of(data.validation) == {image.tobytes() for image in X}
    np.testing.assert_array_equal(data.test.x, X[:10])


def test_every_image_keeps_its_label(own):
    label_of = {image.tobytes(): label for image, label in zip(X, Y, strict=True)}
    data = load(own())
    for split in (data.train, data.validation, data.test):
        assert [label_of[image.tobytes()] for image in split.x] == split.y.tolist()


def test_the_seed_changes_the_split_but_not_the_fingerprint(own):
    one, other = load(own(seed=1)), load(own(seed=2))
    assert rows_of(one.validation) != rows_of(other.validation)
    assert one.fingerprint == other.fingerprint
    np.testing.assert_array_equal(one.test.x, other.test.x)


@pytest.mark.parametrize(
    "changed",
    [
        {"x": X ^ 1},
        {"y": (Y + 1) % 5},
        {"x_test": X[:10] ^ 1},
        {"x": X.reshape(50, 1, 2, 8), "x_test": X[:10].reshape(10, 1, 2, 8)},
        {"parameters": {"mean": [0.1]}},
        {"parameters": {"classes": 6}},
    ],
    ids=["train", "labels", "test", "shape", "preprocessing", "classes"],
)
def test_the_fingerprint_is_that_of_the_contents(own, changed):
    original = load(own()).fingerprint
    assert load(own("copy")).fingerprint == original
    assert load(own("changed", **changed)).fingerprint != original


def test_an_equal_reference_is_loaded_once(own):
    assert load(own(seed=7)) is load(own(seed=7))


def test_a_reference_survives_json(own):
    reference = own(augment=("random_crop",), seed=3, parameters={"mean": (0.5,)})
    read = DataReference.from_dict(json.loads(json.dumps(reference.to_dict())))
    assert read.to_dict() == reference.to_dict()
    assert (read.augment, read.folder) == (reference.augment, reference.folder)
    assert load(read) is load(reference)


def test_the_parameters_kept_are_complete_and_plain(own):
    parameters = load(own()).parameters
    assert parameters == {
        "train": "train.npz",
        "test": "test.npz",
        "validation": None,
        "unlabelled": None,
        "mean": None,
        "std": None,
        "classes": None,
        "vocabulary": None,
    }


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"name": "digit"}, UnknownName, "did you mean `digits`"),
        ({"parameters": {"sizes": 8}}, UnknownName, "did you mean `size`"),
        ({"parameters": {"size": "large"}}, RecipeError, r"data\.size"),
        ({"parameters": {"size": 4}}, RecipeError, r"data\.size"),
        ({"augment": ("random_crob",)}, UnknownName, "did you mean `random_crop`"),
    ],
)
def test_a_reference_that_makes_no_sense_is_refused(fields, kind, message):
    with pytest.raises(kind, match=message):
        load(DataReference(**{"name": "digits", **fields}))


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2, float("nan")])
def test_a_validation_fraction_that_is_no_share_is_refused(fraction):
    with pytest.raises(RecipeError, match="validation_fraction"):
        DataReference(name="digits", validation_fraction=fraction)


def test_an_image_augmentation_is_refused_for_signals(own):
    signals = X.reshape(50, 1, 16)
    reference = own(x=signals, x_test=signals[:10], augment=("random_crop",))
    with pytest.raises(DataError, match=r"`random_crop` is for images .* shape \(1, 16\)"):
        load(reference)


def test_a_training_part_that_cannot_be_split_is_refused(own):
    with pytest.raises(DataError, match="no class of train has two items"):
        load(own(x=X[:5], y=Y[:5]))


def test_token_ids_are_not_augmented(tmp_path):
    x = np.arange(24).reshape(12, 2)
    for part in ("train", "test"):
        np.savez(tmp_path / f"{part}.npz", x=x, y=np.arange(12) % 2)
    parameters = {"train": "train.npz", "test": "test.npz"}
    reference = DataReference(
        name="arrays", parameters=parameters, augment=("random_crop",), folder=tmp_path
    )
    with pytest.raises(DataError, match="token ids") as caught:
        load(reference)
    assert caught.value.hint


def test_unlabelled_items_are_read_and_belong_to_the_fingerprint(own, tmp_path):
    known = load(own()).fingerprint
    np.save(tmp_path / "one" / "more.npy", X[:7] ^ 3)
    data = load(own(parameters={"unlabelled": "more.npy"}))
    np.testing.assert_array_equal(data.unlabelled, X[:7] ^ 3)
    assert data.fingerprint != known
    np.save(tmp_path / "one" / "more.npy", X[:7, :, :3])
    with pytest.raises(DataError, match="unlabelled items of data `arrays`: an item has"):
        load(own(parameters={"unlabelled": "more.npy"}, seed=1))
    np.save(tmp_path / "one" / "more.npy", X[:7].astype(np.float32))
    with pytest.raises(DataError, match=r"x is float32, in the train part it is uint8"):
        load(own(parameters={"unlabelled": "more.npy"}, seed=2))


def test_normalises_by_the_training_part_where_asked_and_says_so(own):
    plain, found = load(own()), load(own(normalize=True))
    seen = found.preprocessing.apply(X)
    np.testing.assert_allclose((seen.mean(), seen.std()), (0, 1), atol=1e-3)
    assert plain.preprocessing.mean == (0.0,)
    assert found.fingerprint != plain.fingerprint
    (said,) = (note for note in found.notes if "normalised by the training part" in note)
    assert "data.normalize: false" in said


def test_a_mean_that_is_given_is_the_mean(own):
    data = load(own(parameters={"mean": [0.0]}, normalize=True))
    assert data.preprocessing.mean == (0.0,)
    assert not any("normalised" in note for note in data.notes)


def test_a_reference_is_stored_as_ever_unless_it_normalises(own):
    assert "normalize" not in own().to_dict()
    asked = own(normalize=True)
    assert DataReference.from_dict(json.loads(json.dumps(asked.to_dict()))).normalize
