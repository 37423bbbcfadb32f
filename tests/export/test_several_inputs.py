"""Files of several inputs: written by name, with open sizes, quantized, and called as models."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import kdeploy
from kdeploy.bench.inputs import write_pool
from kdeploy.bench.model_under_test import ModelUnderTest
from kdeploy.data.load import DataReference, load
from kdeploy.dynamic.run import check_data
from kdeploy.errors import DataError, KdeployError, ModelError, ParityFailed
from kdeploy.export.run import export
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.package.kinds import kind_of
from kdeploy.package.run import _of_inputs
from kdeploy.quantization.onnx_static import check_integers
from kdeploy.torch_module.named_inputs import call, tensors_of
from tests.tiny.two_inputs import masked, masked_items, pictured, pictured_items


def data_of(folder, items):
    for part, count in (("train", 96), ("test", 32)):
        np.savez(folder / f"{part}.npz", **items(count, seed=count))
    files = {part: str(folder / f"{part}.npz") for part in ("train", "test")}
    return load(DataReference(name="arrays", parameters=files))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return data_of(tmp_path_factory.mktemp("pictures"), pictured_items)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return data_of(tmp_path_factory.mktemp("texts"), masked_items)


@pytest.fixture(scope="module")
def picture_file(pictures, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("file") / "pictured.onnx"
    export(pictured(16).eval(), "onnx", {}, pictures, path)
    return path


def test_token_ids_and_their_mask_may_have_any_length(texts, tmp_path):
    torch.manual_seed(0)
    model = masked().eval()
    file = export(model, "onnx", {"dynamic": ["length"]}, texts, tmp_path / "m.onnx").path
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(1, 20, (3, 21))
    mask = np.ones_like(ids)
    (found,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    expected = model(torch.from_numpy(ids), torch.from_numpy(mask)).detach()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_image_may_have_any_size_beside_a_vector_that_has_not(pictures, tmp_path):
    asked = {"dynamic": ["height", "width"]}
    file = export(pictured().eval(), "onnx", asked, pictures, tmp_path / "m.onnx").path
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    shapes = {i.name: i.shape for i in session.get_inputs()}
    assert all(isinstance(size, str) for size in shapes["image"][2:])
    assert shapes["vector"][1] == 4


class FixedSum(nn.Module):
    """Fixes the length that it was traced with."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = masked()

    def forward(self, input_ids, attention_mask):
        length = int(input_ids.shape[1])
        return self.inner(input_ids, attention_mask) * float(length)


def test_a_length_that_the_code_fixes_is_told_before_a_file_is_kept(texts, tmp_path):
    with pytest.raises((ModelError, ParityFailed)):
        export(FixedSum().eval(), "onnx", {"dynamic": ["length"]}, texts, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_sizes_that_no_input_has_are_refused(pictures, tmp_path):
    with pytest.raises(ModelError, match="none has a length"):
        export(pictured().eval(), "onnx", {"dynamic": ["length"]}, pictures, tmp_path / "m.onnx")


def test_a_file_is_called_as_its_model(pictures, picture_file):
    file = OnnxModel(picture_file)
    x = tensors_of(pictures.preprocessing.apply(pictures.test.x[:5]))
    torch.manual_seed(0)
    torch.testing.assert_close(call(file, x), call(pictured(16).eval(), x), atol=1e-5, rtol=1e-4)
    assert call(file, x[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": torch.zeros(2, 1, 8, 8)}, "given `image`"),
        ({"image": torch.zeros(2, 1, 8, 8), "vec": torch.zeros(2, 4)}, "`vec`"),
    ],
)
def test_a_file_names_what_it_takes(picture_file, given, message):
    with pytest.raises(ModelError, match=message) as caught:
        OnnxModel(picture_file)(**given)
    assert "`image`, `vector`" in caught.value.message


def test_int8_of_a_file_of_several_inputs(pictures, picture_file, tmp_path):
    files = {part: pictures.parameters[part] for part in ("train", "test")}
    small = kdeploy.compress(
        f"onnx:{picture_file}",
        "int8_ptq",
        data={"name": "arrays", **files},
        out=tmp_path / "int8",
        calibration_batches=2,
    )
    file = next(small.folder.glob("*.onnx"))
    check_integers(file)
    x = tensors_of(pictures.preprocessing.apply(pictures.test.x[:32]))
    whole, integer = (call(OnnxModel(path), x) for path in (picture_file, file))
    assert 0 < float((whole - integer).abs().mean()) < 0.1 * float(whole.std())
    assert float((whole.argmax(1) == integer.argmax(1)).float().mean()) > 0.9


def test_int8_of_a_file_is_refused_without_items_for_all_of_its_inputs(picture_file, tmp_path):
    x, y = pictured_items(32)["image"], np.arange(32) % 3
    with pytest.raises(KdeployError, match="`vector`") as caught:
        kdeploy.compress(f"onnx:{picture_file}", "int8_ptq", data=(x, y), out=tmp_path / "int8")
    assert caught.value.hint
    assert not (tmp_path / "int8").exists()


def test_another_name_in_the_data_is_refused(picture_file, tmp_path):
    items = pictured_items(32)
    items["vectors"] = items.pop("vector")
    with pytest.raises((ModelError, DataError), match="vectors"):
        kdeploy.compress(f"onnx:{picture_file}", "int8_ptq", data=items, out=tmp_path / "int8")


def test_inputs_of_unlike_batches_are_no_items(tmp_path):
    value = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "rate"], ["y"])],
        "g",
        [value("x", shape=["n", 3]), value("rate", shape=[])],
        [value("y", shape=["n", 3])],
    )
    onnx.save(
        helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]),
        tmp_path / "m.onnx",
    )
    with pytest.raises(ModelError, match="not all of one batch") as caught:
        OnnxModel(tmp_path / "m.onnx")
    assert "--data" in caught.value.hint


def test_a_file_of_other_names_is_neither_timed_nor_packaged_on_the_data(picture_file, tmp_path):
    items = pictured_items(32)
    items["vectors"] = items.pop("vector")
    np.savez(tmp_path / "items.npz", **items)
    np.savez(tmp_path / "test.npz", **items)
    files = {"train": str(tmp_path / "items.npz"), "test": str(tmp_path / "test.npz")}
    reference = DataReference(name="arrays", parameters=files)
    subject = ModelUnderTest(artifact="", label="file", path=picture_file, format="onnx")
    with pytest.raises(ModelError, match="the file takes `image`, `vector`") as caught:
        write_pool(subject, reference, batch_size=1, file=tmp_path / "pool")
    assert caught.value.hint
    known, facts = load(reference).preprocessing.to_dict(), kind_of("onnx").facts_of(picture_file)
    with pytest.raises(ModelError, match="the data have the inputs image, vectors") as caught:
        _of_inputs(known, facts)
    assert caught.value.hint


def test_a_dynamic_model_takes_one_input(pictures):
    with pytest.raises(ModelError, match="parts of a dynamic model take one") as caught:
        check_data(pictures, promise=None)
    assert caught.value.hint
