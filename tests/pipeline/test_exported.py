from __future__ import annotations

from pathlib import Path

import pytest

from kdeploy.pipeline.exported import Exported, told_apart
from kdeploy.store.artifact import Artifact


def exported(technique, file, *, stage="export", label="student", **parameters):
    model = Artifact(id="1", folder=Path(), manifest={"label": label, "kind": "torch"})
    manifest = {"stage": stage, "technique": technique, "parameters": parameters, "file": file}
    return Exported(model=model, file=Artifact(id="2", folder=Path(), manifest=manifest))


@pytest.mark.parametrize(
    ("item", "profile", "name"),
    [
        (exported("onnx", "model.onnx", profile="cpu"), "cpu", "student.onnx"),
        (
            exported("onnx", "model.onnx", profile="tensorrt"),
            "tensorrt",
            "student.tensorrt.onnx",
        ),
        (exported("onnx_fp16", "model.onnx"), "onnx_fp16", "student.onnx_fp16.onnx"),
        (exported("openvino", "model.xml", profile="cpu"), "openvino", "student.openvino.xml"),
        (
            exported("openvino", "model.xml", profile="arm"),
            "openvino-arm",
            "student.openvino-arm.xml",
        ),
        (
            exported("tensorrt", "m.engine", profile="tensorrt"),
            "tensorrt",
            "student.tensorrt.engine",
        ),
        (exported("onnx", "model.onnx", stage="teacher"), "", "student.onnx"),
    ],
)
def test_files_of_one_model_are_told_apart(item, profile, name):
    assert (item.profile, item.file_name) == (profile, name)


def test_two_files_of_one_target_are_told_apart_by_their_parameters():
    files = told_apart(
        [
            exported("onnx", "model.onnx", profile="cpu", opset=18),
            exported("onnx", "model.onnx", profile="cpu", opset=20),
            exported("onnx_fp16", "model.onnx"),
            exported("onnx", "model.onnx", profile="cpu", opset=18, dynamic=["height", "width"]),
        ]
    )
    assert [(f.profile, f.file_name) for f in files] == [
        ("cpu", "student.onnx"),
        ("cpu-opset-20", "student.cpu-opset-20.onnx"),
        ("onnx_fp16", "student.onnx_fp16.onnx"),
        ("cpu-dynamic-height-width", "student.cpu-dynamic-height-width.onnx"),
    ]


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("../../evil", "-..-evil.onnx"),
        ("/etc/x", "-etc-x.onnx"),
        ("..", "model.onnx"),
        ("a\0\n b", "a- b.onnx"),
        ("x" * 5000, "x" * 100 + ".onnx"),
    ],
)
def test_a_foreign_label_names_a_file_in_its_folder(label, name):
    assert exported("onnx", "model.onnx", label=label).file_name == name
