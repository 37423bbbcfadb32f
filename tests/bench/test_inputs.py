from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdeploy.artifact import write_manifest
from kdeploy.bench import inputs
from kdeploy.bench.inputs import write_pool
from kdeploy.bench.subject import Subject
from kdeploy.data.load import load
from kdeploy.errors import ModelError
from kdeploy.preprocessing import Preprocessing


def _subject(path, form="onnx"):
    return Subject(artifact="a", label="a", path=path, format=form)


def test_real_items_are_preprocessed_test_items(data, float_file, tmp_path):
    file = tmp_path / "pool.npy"
    assert write_pool(_subject(float_file), data, batch_size=2, file=file)
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
    assert not write_pool(_subject(float_file), None, batch_size=3, file=file)
    pool = np.load(file)
    assert pool.shape == (3 * inputs.POOL_BATCHES, 2, 6, 6)
    assert pool.dtype == np.float32
    assert abs(pool.std() - 1) < 0.05


def test_an_artefact_says_its_shape_itself(tmp_path):
    folder = tmp_path / "artefact"
    folder.mkdir()
    data = {"preprocessing": {"shape": [1, 12, 12]}}
    write_manifest(folder, {"id": "artefact", "kind": "torch", "data": data})
    write_pool(_subject(folder, "torch"), None, batch_size=1, file=tmp_path / "pool.npy")
    assert np.load(tmp_path / "pool.npy").shape[1:] == (1, 12, 12)


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
    write_manifest(folder, {"id": "a", "kind": "torch", "data": {"preprocessing": known}})
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
