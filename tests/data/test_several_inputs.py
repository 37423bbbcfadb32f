"""Items of several inputs: every way in which data give them, and what is refused of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from kdeploy.api.data import Data, reference_of
from kdeploy.data.check import checked_parts
from kdeploy.data.contract import Parts, Split
from kdeploy.data.load import DataReference, load
from kdeploy.data.torch_data import split_of
from kdeploy.errors import DataError, KdeployError, UnknownName
from kdeploy.named_arrays import NamedArrays
from kdeploy.preprocessing import Preprocessing

RNG = np.random.default_rng(0)
ITEMS = 40
IMAGE = RNG.integers(0, 256, (ITEMS, 1, 6, 6), dtype=np.uint8)
VECTOR = RNG.normal(3, 2, (ITEMS, 4)).astype(np.float32)
IDS = RNG.integers(0, 9, (ITEMS, 5))
Y = np.arange(ITEMS) % 2
GOOD = {"image": IMAGE, "vector": VECTOR, "y": Y}


def files(folder, train=GOOD, test=None):
    np.savez(folder / "train.npz", **train)
    np.savez(folder / "test.npz", **(train if test is None else test))
    return {"train": str(folder / "train.npz"), "test": str(folder / "test.npz")}


def loaded(folder, *, train=GOOD, test=None, augment=(), normalize=False, **parameters):
    given = {**files(folder, train, test), **parameters}
    return load(
        DataReference(name="arrays", parameters=given, augment=augment, normalize=normalize)
    )


def test_a_file_without_x_has_the_inputs_that_its_arrays_are_called(tmp_path):
    data = loaded(tmp_path, mean={"vector": [1.0]})
    assert isinstance(data.train.x, NamedArrays)
    assert len(data.train) + len(data.validation) == ITEMS
    given = data.preprocessing.apply(data.test.x)
    np.testing.assert_allclose(given.arrays["image"], IMAGE / np.float32(255), rtol=1e-6)
    np.testing.assert_allclose(given.arrays["vector"], VECTOR - 1, rtol=1e-5, atol=1e-6)


def test_items_that_are_held_out_keep_their_inputs_together(tmp_path):
    marked = VECTOR.copy()
    marked[:, 0] = IMAGE[:, 0, 0, 0]
    data = loaded(tmp_path, train={**GOOD, "vector": marked})
    for part in (data.train, data.validation):
        x = part.x.arrays
        np.testing.assert_array_equal(x["vector"][:, 0], x["image"][:, 0, 0, 0])


def test_floats_are_normalised_each_by_its_own_channels_and_integers_stay(tmp_path):
    data = loaded(tmp_path, train={**GOOD, "ids": IDS}, normalize=True)
    known = data.preprocessing.inputs
    np.testing.assert_allclose(known["vector"].mean, VECTOR.mean(0), rtol=1e-4)
    np.testing.assert_allclose(known["image"].std, IMAGE.std() / 255, rtol=1e-3)
    given = data.preprocessing.apply(data.test.x).arrays["ids"]
    assert given.dtype == np.int64
    np.testing.assert_array_equal(given, IDS)


def test_the_preprocessing_is_read_as_it_was_written(tmp_path):
    known = loaded(tmp_path, train={**GOOD, "ids": IDS}, vocabulary={"ids": 20}).preprocessing
    assert Preprocessing.from_dict(known.to_dict()) == known
    assert known.inputs["ids"].vocabulary == 20


def test_one_input_has_the_fields_that_it_had_before_there_were_several():
    assert "inputs" not in Preprocessing(shape=(1, 8, 8)).to_dict()


def test_another_value_in_any_input_is_another_fingerprint(tmp_path):
    before = loaded(tmp_path).fingerprint
    changed = VECTOR.copy()
    changed[3, 1] += 1
    (tmp_path / "other").mkdir()
    assert loaded(tmp_path / "other", train={**GOOD, "vector": changed}).fingerprint != before


class Items(TorchDataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return ITEMS

    def __getitem__(self, place):
        return self.item(place)


IN_PLACE_OF_X = Items(lambda i: ({"image": IMAGE[i], "vector": torch.tensor(VECTOR[i])}, int(Y[i])))
BESIDE = Items(lambda i: {"image": IMAGE[i], "vector": VECTOR[i], "label": Y[i], "id": i})


@pytest.mark.parametrize(
    "data",
    [IN_PLACE_OF_X, BESIDE, DataLoader(BESIDE, batch_size=7)],
    ids=["in the place of x", "beside the target", "loader"],
)
def test_torch_data_give_inputs_by_name(data):
    split, _ = split_of(data, where="train")
    np.testing.assert_array_equal(split.x.arrays["image"], IMAGE)
    np.testing.assert_array_equal(split.x.arrays["vector"], VECTOR)
    assert list(split.x.arrays) == ["image", "vector"]
    assert split.y.tolist() == Y.tolist()


def test_a_tuple_of_inputs_is_given_in_its_order():
    split, _ = split_of(Items(lambda i: ((IMAGE[i], VECTOR[i]), Y[i])), where="train")
    np.testing.assert_array_equal(split.x.arrays["input_1"], VECTOR)


def test_data_of_a_function_are_dictionaries(tmp_path):
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "def parts():\n"
        "    x = {'image': np.random.rand(20, 1, 4, 4).astype('float32'),"
        " 'ids': np.arange(60).reshape(20, 3)}\n"
        "    y = np.arange(20) % 2\n"
        "    return dict(x_train=x, y_train=y, x_test=x, y_test=y, mean={'image': 0.5})\n"
    )
    data = load(DataReference(name="own.py:parts", folder=tmp_path))
    assert data.preprocessing.inputs["image"].mean == (0.5,)
    assert data.preprocessing.inputs["ids"].vocabulary == 60


@pytest.mark.parametrize(
    "train", [({"image": IMAGE, "vector": VECTOR}, Y), GOOD, BESIDE], ids=["pair", "dict", "torch"]
)
def test_python_data_of_all_forms_are_the_same_data(train):
    found = load(reference_of(Data(train=train, test=GOOD)))
    assert found.fingerprint == load(reference_of(Data(train=GOOD, test=GOOD))).fingerprint
    assert sorted(found.preprocessing.inputs) == ["image", "vector"]


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


BAD = {
    "an input is missing in one part": (
        {"test": {**without("vector"), "further": IMAGE}}, DataError, "`vector` is missing",
    ),
    "one part has one more": (
        {"test": {**GOOD, "vectors": VECTOR}}, UnknownName, "no input `vectors`",
    ),
    "one part has a single input": (
        {"test": {"x": IMAGE, "y": Y}}, DataError, "one part has a single input",
    ),
    "different numbers of items": (
        {"train": {**GOOD, "vector": VECTOR[:-3]}}, DataError, "37 of `vector`",
    ),
    "fewer labels": ({"train": {**GOOD, "y": Y[:-1]}}, DataError, "39 labels"),
    "a type that no model takes": (
        {"train": {**GOOD, "vector": VECTOR.astype(np.float64)}}, DataError, "`vector` is float64",
    ),
    "another type in test": (
        {"test": {**GOOD, "image": IMAGE.astype(np.float32)}}, DataError, "image is float32",
    ),
    "another shape in test": (
        {"test": {**GOOD, "vector": VECTOR[:, :3]}}, DataError, "`vector`: an item has the shape",
    ),
    "a name that no parameter has": (
        {"train": {**GOOD, "a-b": VECTOR}}, DataError, "no name of a parameter",
    ),
    "not a number": (
        {"train": {**GOOD, "vector": np.full_like(VECTOR, np.nan)}}, DataError, "NaN",
    ),
    "one scalar": ({"train": {**GOOD, "rate": np.int64(16)}}, DataError, "single number"),
    "a mean that names no input": ({"mean": {"picture": [0.5]}}, UnknownName, "no input `picture`"),
    "a mean of which": ({"mean": [0.5]}, DataError, "`mean` is"),
    "a mean of integers": (
        {"train": {**GOOD, "ids": IDS}, "mean": {"ids": [0.5]}}, DataError, "holds integers",
    ),
    "an id beyond the vocabulary": (
        {"train": {**GOOD, "ids": IDS}, "vocabulary": {"ids": 3}}, DataError, "vocabulary has 3",
    ),
    "a vocabulary of floats": ({"vocabulary": {"vector": 4}}, DataError, "has no vocabulary"),
    "items that are all the same": (
        {"train": {"image": np.zeros_like(IMAGE), "vector": np.ones_like(VECTOR), "y": Y}},
        DataError,
        "items are the same",
    ),
    "a mean by name of one input": (
        {"train": {"x": IMAGE, "y": Y}, "mean": {"image": [0.5]}}, DataError, "items have one, `x`",
    ),
    "mixed items": ({"augment": ("mixup",)}, DataError, "mixes items of one input"),
    "an augmentation of two images": (
        {"train": {**GOOD, "other": IMAGE}, "augment": ("horizontal_flip",)},
        DataError,
        "the only image",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named_and_what_to_change(tmp_path, case):
    given, kind, message = BAD[case]
    with pytest.raises(kind, match=message) as caught:
        loaded(tmp_path, **given)
    assert caught.value.hint


def test_items_that_differ_in_their_inputs_are_refused():
    strange = Items(lambda i: ({"image": IMAGE[i], **({"vector": VECTOR[i]} if i < 5 else {})}, 0))
    with pytest.raises(KdeployError, match="item 5 has the inputs `image`"):
        split_of(strange, where="train")


def test_a_dictionary_of_something_else_than_arrays_is_refused(tmp_path):
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "def parts():\n"
        "    x, y = {'image': [1, 2], 'ids': np.arange(4)}, np.arange(4) % 2\n"
        "    return dict(x_train=x, y_train=y, x_test=x, y_test=y)\n"
    )
    with pytest.raises(DataError, match="`image` is list") as caught:
        load(DataReference(name="own.py:parts", folder=tmp_path))
    assert "by its name" in caught.value.hint


def test_a_vocabulary_of_nothing_is_refused():
    known = {"ids": Preprocessing(shape=(5,), dtype="int64", vocabulary=0)}
    part = Split(x=NamedArrays({"ids": IDS}), y=Y)
    parts = Parts(train=part, test=part, preprocessing=Preprocessing(shape=(), inputs=known))
    with pytest.raises(DataError, match="a vocabulary of 0") as caught:
        checked_parts(parts, where="data")
    assert caught.value.hint
