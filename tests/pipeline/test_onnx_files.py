"""A model that is a file is compressed, packaged and chained as one."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace

import onnx
import pytest
import torch
from torch import nn

from kdeploy.data.load import DataReference
from kdeploy.errors import ModelError, RecipeError
from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch
from kdeploy.onnx_graph.checks import file_bytes
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.pipeline.log import NullListener
from kdeploy.pipeline.single import Source, compress_one, export_one, package_one
from kdeploy.recipe.resolve import Step, step
from kdeploy.registry import find, validate


@pytest.fixture
def source(tmp_path, tiny_model):
    """Return a file for digits of 12 x 12 pixels."""
    onnx_from_torch(tiny_model(classes=10), torch.zeros(2, 1, 12, 12), tmp_path / "m.onnx")
    data = DataReference(name="digits", parameters={"size": 12})
    return Source(reference=f"onnx:{tmp_path / 'm.onnx'}", data=data)


def test_a_file_becomes_int8_and_a_bundle(source, tmp_path):
    wanted = step({"int8_ptq": {"calibration_batches": 2}}, "compress")
    made = compress_one(source, wanted, tmp_path / "out", NullListener())
    assert made.kind == "onnx"
    assert made.is_quantized
    assert made.facts["size"] == made.file.stat().st_size
    assert [s["label"] for s in made.manifest["lineage"]] == ["teacher", "int8_ptq"]
    assert OnnxModel(made.file)(torch.zeros(3, 1, 12, 12)).shape == (3, 10)
    again = compress_one(source, wanted, tmp_path / "out", NullListener())
    assert again.id == made.id
    bundled = package_one(
        Source(reference=str(made.folder)), [], tmp_path / "bundle", NullListener()
    )
    assert bundled.passed


class FromBytes(nn.Module):
    """Takes bytes (batch, height, width, channels), as files of other frameworks do."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((x.float() / 255).permute(0, 3, 1, 2))


def test_a_file_of_bytes_with_channels_last_becomes_int8_and_a_bundle(tmp_path, tiny_model):
    x = torch.zeros(2, 12, 12, 1, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            FromBytes(tiny_model(classes=10)).eval(),
            (x,),
            tmp_path / "bytes.onnx",
            dynamo=True,
            input_names=["image"],
            dynamic_shapes=(dict.fromkeys((0, 1, 2), torch.export.Dim.DYNAMIC),),
        )
    source = Source(
        reference=f"onnx:{tmp_path / 'bytes.onnx'}",
        args={"input": "image=1,12,12,1:uint8"},
        data=DataReference(name="digits", parameters={"size": 12}),
    )
    wanted = step({"int8_ptq": {"calibration_batches": 2}}, "compress")
    made = compress_one(source, wanted, tmp_path / "out", NullListener())
    assert OnnxModel(made.file)(torch.zeros(3, 1, 12, 12)).shape == (3, 10)
    assert package_one(source, [], tmp_path / "bundle", NullListener()).passed
    other = replace(source, args={"input": "image=1,9,12,1"})
    with pytest.raises(ModelError, match="is declared, and the data have items of shape"):
        compress_one(other, wanted, tmp_path / "other", NullListener())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"prune_channels": {}}, "`prune_channels` needs a torch model"),
        ({"int8_ptq": {"recover": {}}}, None),
    ],
)
def test_what_a_file_cannot_do_is_refused(source, tmp_path, entry, message):
    with pytest.raises(RecipeError, match=message) as caught:
        compress_one(source, step(entry, "compress"), tmp_path / "out", NullListener())
    assert caught.value.hint


def test_weights_beside_a_file_are_refused(source, tmp_path):
    given = Source(reference=source.reference, data=source.data, weights=tmp_path / "w")
    with pytest.raises(RecipeError, match="has its weights in the file"):
        compress_one(given, step({"int8_ptq": {}}, "compress"), tmp_path / "out", NullListener())


def exporting(**parameters):
    """Return the step of an export."""
    own = find("exporter", "onnx").parameters
    return Step(technique="onnx", parameters=validate(own, parameters, where="export.onnx"))


def test_weights_in_a_file_beside_go_where_the_file_goes(source, tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    shutil.copy(tmp_path / "m.onnx", folder / "m.onnx")
    beside = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 64}
    onnx.save(onnx.load(folder / "m.onnx"), folder / "m.onnx", **beside)
    given = Source(reference=f"onnx:{folder / 'm.onnx'}", data=source.data)
    made = export_one(given, exporting(external_data=True), tmp_path, NullListener())
    assert (made.file.folder / "model.onnx.data").is_file()
    assert made.file.facts["size"] == file_bytes(made.file.file)
    exported = tmp_path / "exports" / "teacher.onnx"
    assert (tmp_path / "exports" / "teacher.onnx.data").is_file()
    x = torch.zeros(3, 1, 12, 12)
    assert torch.equal(OnnxModel(exported)(x), OnnxModel(tmp_path / "m.onnx")(x))
    assert package_one(given, [], tmp_path / "bundle", NullListener()).passed
    assert (tmp_path / "bundle" / "model.onnx.data").is_file()
    # Other weights of the same graph are another model.
    weights = folder / "w.bin"
    weights.write_bytes(bytes(weights.stat().st_size))
    other = export_one(given, exporting(), tmp_path, NullListener())
    assert other.model.id != made.model.id
