from __future__ import annotations

from pathlib import Path

import pytest

from kdeploy.runtimes.files import files_of, format_of


@pytest.mark.parametrize(
    ("name", "form"),
    [("m.onnx", "onnx"), ("m.plan", "engine"), ("m.xml", "openvino"), ("m.pt2", "torch_export")],
)
def test_the_suffix_says_the_format(name, form):
    assert format_of(Path(name)) == form


def test_a_folder_is_a_torch_artefact_and_anything_else_is_tried_as_onnx(tmp_path):
    assert format_of(tmp_path) == "torch"
    assert format_of(tmp_path / "m.bin") == "onnx"


def test_an_openvino_model_has_its_weights_beside_it(tmp_path):
    for name in ("m.xml", "m.bin", "m.onnx", "alone.xml"):
        (tmp_path / name).touch()
    assert [f.name for f in files_of(tmp_path / "m.xml")] == ["m.xml", "m.bin"]
    assert files_of(tmp_path / "m.onnx") == [tmp_path / "m.onnx"]
    assert files_of(tmp_path / "alone.xml") == [tmp_path / "alone.xml"]
