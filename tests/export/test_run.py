from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest

from kdeploy.errors import DataError, ParityFailed, RecipeError, UnknownName
from kdeploy.export import run
from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch
from kdeploy.export.run import export


def test_a_float_file_is_exact_to_the_order_of_sums(network, tmp_path):
    model, items = network("concatenating")
    result = export(model, "onnx", {}, items, tmp_path / "deep" / "m.onnx")
    assert result.max_abs < 1e-5
    assert result.cosine == pytest.approx(1)
    assert result.agreement == 1
    assert result.required_tolerance < 1e-5
    assert (result.opset, result.size_bytes) == (18, result.path.stat().st_size)


@pytest.mark.parametrize("profile", ["cpu", "tensorrt"])
def test_an_int8_file_is_held_against_the_model_in_its_own_encoding(int8, tmp_path, profile):
    model, items = int8("squeezing")
    result = export(model, "onnx", {"profile": profile}, items, tmp_path / "m.onnx")
    assert result.max_abs < 0.1
    assert result.cosine > 0.999
    properties = {p.key: p.value for p in onnx.load(result.path).metadata_props}
    assert properties["kdeploy.profile"] == profile


def test_metadata_is_written_beside_our_own(network, tmp_path):
    model, items = network("signal")
    result = export(model, "onnx", {}, items, tmp_path / "m.onnx", metadata={"label": "student"})
    properties = {p.key: p.value for p in onnx.load(result.path).metadata_props}
    assert properties["label"] == "student"
    assert properties["kdeploy.input"] == "input"


def test_a_file_that_differs_is_not_left_behind(network, tmp_path, monkeypatch):
    model, items = network("signal")
    path = tmp_path / "m.onnx"
    path.write_bytes(b"an older file")

    def broken(model, example, path, **parameters):
        onnx_from_torch(model, example, path, **parameters)
        file = onnx.load(path)
        bias = next(t for t in file.graph.initializer if list(t.dims) == [5])
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(5, 0.3, np.float32), bias.name))
        onnx.save(file, path)

    monkeypatch.setattr("kdeploy.export.exporters.onnx_from_torch.onnx_from_torch", broken)
    with pytest.raises(ParityFailed, match=r"m\.onnx"):
        export(model, "onnx", {}, items, path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert path.read_bytes() == b"an older file"


def test_an_interrupted_export_leaves_nothing(network, tmp_path, monkeypatch):
    model, items = network("signal")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "parity_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(model, "onnx", {}, items, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "parameters", "error"),
    [
        ("onxn", {}, UnknownName),
        ("onnx", {"opsett": 18}, UnknownName),
        ("onnx", {"opset": 16}, RecipeError),
        ("onnx", {"profile": "gpu"}, RecipeError),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(
    network, tmp_path, target, parameters, error
):
    model, items = network("signal")
    with pytest.raises(error):
        export(model, target, parameters, items, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_validation_items_there_is_no_gate_and_no_file(network, tmp_path):
    model, items = network("signal")
    empty = dataclasses.replace(
        items.validation, x=items.validation.x[:0], y=items.validation.y[:0]
    )
    with pytest.raises(DataError, match="validation"):
        export(model, "onnx", {}, dataclasses.replace(items, validation=empty), tmp_path / "m.onnx")


def test_an_optimised_file_that_differs_is_written_again_without(
    network, tmp_path, monkeypatch, caplog
):
    model, items = network("signal")

    def breaks(program):
        bias = next(t for t in program.graph.initializer if list(t.dims) == [5])
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(5, 0.3, np.float32), bias.name))
        return program

    monkeypatch.setattr("kdeploy.export.exporters.onnx_from_torch.slimmed", breaks)
    result = export(model, "onnx", {"optimize": "onnxslim"}, items, tmp_path / "m.onnx")
    assert result.max_abs < 1e-4
    assert "written again with `optimize: none`" in caplog.text
    properties = {p.key: p.value for p in onnx.load(result.path).metadata_props}
    assert properties["kdeploy.optimize"] == "none"


def test_the_file_says_what_goes_in_and_what_comes_out(network, tmp_path):
    model, items = network("signal")
    result = export(model, "onnx", {"external_data": True}, items, tmp_path / "m.onnx")
    properties = {p.key: p.value for p in onnx.load(result.path).metadata_props}
    assert json.loads(properties["kdeploy.classes"]) == list("abcde")
    assert json.loads(properties["kdeploy.preprocessing"])["shape"] == [4, 16]
