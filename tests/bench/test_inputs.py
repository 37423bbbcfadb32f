from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdeploy.bench import inputs
from kdeploy.bench.inputs import write_pool
from kdeploy.bench.model_under_test import ModelUnderTest
from kdeploy.data.load import DataReference, load
from kdeploy.errors import ModelError
from kdeploy.onnx_graph.input_fitting import Declared, declared_file
from kdeploy.preprocessing import Preprocessing
from kdeploy.store.artifact import write_manifest


def _subject(path, form="onnx"):
    return ModelUnderTest(artifact="a", label="a", path=path, format=form)


def test_real_items_are_preprocessed_test_items(data, float_file, tmp_path):
    file = tmp_path / "pool.npy"
    pool = write_pool(_subject(float_file), data, batch_size=2, file=file)
    assert pool.is_real
    assert pool.shape == (2, 6, 6)
    test = load(data).test
    expected = load(data).preprocessing.apply(np.asarray(test.x[: 2 * inputs.POOL_BATCHES]))
    np.testing.assert_array_equal(np.load(file), expected)


def test_few_items_are_repeated_to_fill_batches(data, float_file, tmp_path):
    write_pool(_subject(float_file), data, batch_size=60, file=tmp_path / "pool.npy")
    pool = np.load(tmp_path / "pool.npy")
    assert len(pool) % 60 == 0
    np.testing.assert_array_equal(pool[70], pool[0])


def test_without_data_noise_of_the_right_shape_is_used_and_told(float_file, tmp_path):
    file = tmp_path / "pool.npy"
    assert not write_pool(_subject(float_file), None, batch_size=3, file=file).is_real
    pool = np.load(file)
    assert pool.shape == (3 * inputs.POOL_BATCHES, 2, 6, 6)
    assert pool.dtype == np.float32
    assert abs(pool.std() - 1) < 0.05


def test_an_artefact_says_its_shape_itself(tmp_path):
    folder = tmp_path / "artefact"
    folder.mkdir()
    data = {"preprocessing": {"shape": [1, 12, 12]}}
    write_manifest(folder, {"id": "0123456789ab", "label": "a", "kind": "torch", "data": data})
    write_pool(_subject(folder, "torch"), None, batch_size=1, file=tmp_path / "pool.npy")
    assert np.load(tmp_path / "pool.npy").shape[1:] == (1, 12, 12)


def test_images_are_resampled_to_the_nearest_pixel(data, float_file, tmp_path):
    file = tmp_path / "pool.npy"
    pool = write_pool(_subject(float_file), data, batch_size=1, size=(3, 12), file=file)
    assert pool == inputs.Pool(shape=(2, 3, 12), is_real=True)
    item = load(data).preprocessing.apply(np.asarray(load(data).test.x[:1]))[0]
    np.testing.assert_array_equal(np.load(file)[0], item[:, ::2].repeat(2, axis=2))


def test_signals_are_cut_off_or_repeated():
    signal = np.arange(10.0, dtype=np.float32).reshape(1, 2, 5)
    assert inputs._brought_to(signal, (2, 3)).tolist() == [[[0, 1, 2], [5, 6, 7]]]
    assert inputs._brought_to(signal, (2, 7))[0, 0].tolist() == [0, 1, 2, 3, 4, 0, 1]


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((3, 8, 6), (5,), (3, 5, 5)),
        ((3, 8, 6), (5, 4), (3, 5, 4)),
        ((3, 8), (5,), (3, 5)),
        ((8,), (5,), (5,)),
        ((8,), (), (8,)),
    ],
)
def test_a_size_is_of_all_but_the_channels(shape, size, expected):
    assert inputs._sized(shape, size) == expected


def test_a_size_of_too_many_numbers_is_refused():
    with pytest.raises(ModelError, match=r"2 numbers \(5x4\) does not fit"):
        inputs._sized((3, 8), (5, 4))


def test_a_size_closes_what_the_file_leaves_open(float_file, tmp_path):
    model = onnx.load(float_file)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "free"
    onnx.save(model, tmp_path / "free.onnx")
    model, file = _subject(tmp_path / "free.onnx"), tmp_path / "pool.npy"
    with pytest.raises(ModelError, match="open") as caught:
        write_pool(model, None, batch_size=1, file=file)
    assert "--size" in (caught.value.hint or "")
    assert write_pool(model, None, batch_size=1, size=(6,), file=file).shape == (2, 6, 6)


def test_large_inputs_make_a_small_pool():
    assert inputs._count((3, 224, 224), 1) == 6
    assert inputs._count((3, 224, 224), 64) == 128


def test_an_engine_needs_data(tmp_path):
    with pytest.raises(ModelError, match="how large"):
        write_pool(_subject(tmp_path, "engine"), None, batch_size=1, file=tmp_path / "pool.npy")


def test_an_artefact_of_a_text_model_gets_token_ids(tmp_path):
    folder = tmp_path / "artefact"
    folder.mkdir()
    known = Preprocessing(shape=(7,), dtype="int64", vocabulary=5).to_dict()
    write_manifest(
        folder,
        {"id": "0123456789ab", "label": "a", "kind": "torch", "data": {"preprocessing": known}},
    )
    write_pool(_subject(folder, "torch"), None, batch_size=1, file=tmp_path / "pool.npy")
    pool = np.load(tmp_path / "pool.npy")
    assert pool.dtype == np.int64
    assert pool.shape[1:] == (7,)
    assert set(np.unique(pool)) == set(range(5))


def test_a_file_of_token_ids_needs_data(tmp_path):
    ports = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "ids", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph), tmp_path / "ids.onnx")
    with pytest.raises(ModelError, match="takes token ids") as caught:
        write_pool(_subject(tmp_path / "ids.onnx"), None, batch_size=1, file=tmp_path / "pool.npy")
    assert "--data" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "values"), [(TensorProto.UINT8, 256), (TensorProto.INT32, 2), (TensorProto.INT64, 2)]
)
def test_a_file_of_whole_numbers_gets_some_once_its_sizes_are_declared(tmp_path, kind, values):
    ports = [helper.make_tensor_value_info(name, kind, ["batch", "some"]) for name in "xy"]
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "whole", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph), tmp_path / "whole.onnx")
    given = {"x": Declared(shape=(1, 1000))}
    declared_file(tmp_path / "whole.onnx", tmp_path / "declared.onnx", given)
    file = tmp_path / "pool.npy"
    write_pool(_subject(tmp_path / "declared.onnx"), None, batch_size=1, file=file)
    pool = np.load(file)
    assert pool.shape[1:] == (1000,)
    assert pool.dtype == helper.tensor_dtype_to_np_dtype(kind)
    assert len(np.unique(pool)) == values


def tokens_of(folder, **shapes):
    """Return data of several inputs, whole numbers of these item shapes."""
    for part in ("train", "test"):
        arrays = {name: np.ones((40, *shape), np.int64) for name, shape in shapes.items()}
        arrays["input_ids"][:, 1] = np.arange(40) + 5
        np.savez(folder / f"{part}.npz", **arrays, y=np.arange(40) % 3)
    files = {part: str(folder / f"{part}.npz") for part in ("train", "test")}
    return DataReference(name="arrays", parameters=files)


def test_ids_and_their_mask_are_brought_to_one_length(tmp_path):
    file = tmp_path / "pool.npz"
    known = tokens_of(tmp_path, input_ids=(6,), attention_mask=(6,))
    folder = tmp_path / "model"
    folder.mkdir()
    write_pool(_subject(folder, "torch"), known, batch_size=1, size=(9,), file=file)
    ids, mask = np.load(file).values()
    assert ids.shape[1:] == mask.shape[1:] == (9,)
    assert ids[0].tolist() == [1, 5, 1, 1, 1, 1, 1, 5, 1]


def test_inputs_of_different_shapes_have_no_length_to_sweep(tmp_path):
    known = tokens_of(tmp_path, input_ids=(6,), picture=(1, 4, 4))
    (folder := tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match="cannot be swept of a file that takes") as caught:
        write_pool(
            _subject(folder, "torch"), known, batch_size=1, size=(9,), file=tmp_path / "pool.npz"
        )
    assert "--input NAME=" in caught.value.hint
