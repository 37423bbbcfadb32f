"""A file that loses against the one it was made of is not shipped without a word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from kdeploy.measurement import Measurement, write
from kdeploy.pipeline.exported import Exported
from kdeploy.pipeline.losing import base_of, notes, warning, warning_of_artifact
from kdeploy.store.artifact import Artifact

CELL = {"runtime": "onnxruntime_cpu", "batch_size": 1}


def model(name, *, is_quantized=False):
    steps = [{"id": name, "technique": "int8_ptq" if is_quantized else "train"}]
    manifest = {"label": name, "kind": "torch", "lineage": steps}
    manifest |= {"stage": "compress" if is_quantized else "teacher", **steps[0]}
    manifest["facts"] = {"is_quantized": is_quantized}
    return manifest


@pytest.fixture
def chain(tmp_path):
    """Return models and files: a float student, and its INT8."""
    files, models = [], []
    for name, is_quantized in (("student", False), ("int8_ptq", True)):
        folder = tmp_path / name
        folder.mkdir()
        weights = [
            numpy_helper.from_array(np.zeros((4, 1, 3, 3), np.float32), "stem.weight"),
            numpy_helper.from_array(np.zeros((32, 64, 3, 3), np.float32), "body.weight"),
        ]
        nodes = [
            helper.make_node("Conv", ["x", "stem.weight"], ["a"], name="stem"),
            helper.make_node("Conv", ["a", "body.weight"], ["y"], name="body"),
        ]
        graph = helper.make_graph(nodes, "g", [], [], weights)
        onnx.save(helper.make_model(graph), folder / "model.onnx")
        artifact = Artifact(id=name, folder=folder, manifest=model(name, is_quantized=is_quantized))
        made = {"stage": "export", "technique": "onnx", "parameters": {}, "file": "model.onnx"}
        file = Artifact(id=f"{name}-file", folder=folder, manifest=made)
        models.append(artifact)
        files.append(Exported(model=artifact, file=file))
    return models, files


def measured(label, **values):
    names = {"latency": "latency.p50", "accuracy": "accuracy.top1", "size": "size"}
    return [
        Measurement(artifact=label, label=label, metric=names.get(k, k), value=v, **CELL)
        for k, v in values.items()
    ]


def test_a_file_is_held_against_the_float_one_before_it(chain):
    models, files = chain
    assert models[1].is_quantized
    assert base_of(files[1], files, models) is files[0]
    assert base_of(files[0], files, models) is None


@pytest.mark.parametrize(
    ("own", "is_warned", "said"),
    [
        ({"latency": 2e-3, "accuracy": 0.8, "size": 30e3}, True, "latency.p50 2 ms against 1 ms"),
        ({"latency": 2e-3, "accuracy": 0.8, "size": 5e3}, True, "better only in size"),
        ({"latency": 2e-3, "accuracy": 0.9, "size": 5e3}, False, ""),
        ({"latency": 0.5e-3, "accuracy": 0.8, "size": 5e3}, False, ""),
        ({"latency": 1.01e-3, "accuracy": 0.9, "size": 20e3}, False, ""),
    ],
    ids=["all", "all but size", "speed alone", "accuracy for speed", "nothing differs"],
)
def test_what_loses_is_warned_of_with_its_numbers(chain, own, is_warned, said):
    models, files = chain
    base = measured("student", latency=1e-3, accuracy=0.9, size=20e3)
    text = warning(files[1], files, models, [*base, *measured("int8_ptq", **own)], CELL)
    assert bool(text) == is_warned
    assert said in text


def test_the_note_names_the_narrow_layers(chain):
    models, files = chain
    records = [*measured("student", latency=1e-3), *measured("int8_ptq", latency=2e-3)]
    (note,) = notes(files, models, records, CELL)
    assert "int8_ptq is slower in INT8 than student in float" in note
    assert "1 of 2 layers are narrow" in note
    assert "`stem` (1 to 4)" in note
    assert "body" not in note


def test_where_little_ran_on_integers_that_is_the_reason(chain):
    models, files = chain
    slow = measured("int8_ptq", latency=2e-3, integer_kernels=0.25)
    (note,) = notes(files, models, [*measured("student", latency=1e-3), *slow], CELL)
    assert "only 25% of its eligible operators ran on integers" in note


def test_int8_that_pays_has_no_note(chain):
    models, files = chain
    records = [*measured("student", latency=1e-3), *measured("int8_ptq", latency=0.5e-3)]
    assert notes(files, models, records, CELL) == []


def test_what_is_packaged_by_itself_is_judged_by_its_run(chain, tmp_path):
    models, _ = chain
    folder = tmp_path / "run" / "artifacts" / "int8_ptq"
    folder.mkdir(parents=True)
    lineage = [{"id": "student"}, {"id": "int8_ptq"}]
    own = replace(models[1], folder=folder, manifest={**models[1].manifest, "lineage": lineage})
    assert warning_of_artifact(own) == ""
    base = measured("student", latency=1e-3, accuracy=0.9)
    lost = measured("int8_ptq", latency=2e-3, accuracy=0.8)
    write([*base, *lost], tmp_path / "run" / "measurements.jsonl")
    assert "int8_ptq loses against student" in warning_of_artifact(own)
