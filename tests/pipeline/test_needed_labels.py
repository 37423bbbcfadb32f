"""Data without labels: what can be done on them is done, what needs labels is refused at once."""

import json
import zipfile

import numpy as np
import pytest
import torch

from kdeploy.data.load import DataReference
from kdeploy.errors import DataError
from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch
from kdeploy.pipeline.log import NullListener
from kdeploy.pipeline.single import Source, compress_one, package_one
from kdeploy.recipe.resolve import step
from kdeploy.store.artifact import open_artifact
from tests.conftest import TINY_BUILD


@pytest.fixture
def items(tmp_path, tiny_data):
    """Return the reference to the tiny images without their labels."""
    np.save(tmp_path / "x.npy", np.asarray(tiny_data.train.x[:]))
    parameters = {"items": str(tmp_path / "x.npy"), "mean": [0.5], "std": [0.25]}
    return DataReference(name="unlabelled", parameters=parameters)


@pytest.fixture
def onnx_file(tmp_path, tiny_model):
    onnx_from_torch(tiny_model(), torch.zeros(2, 1, 12, 12), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_file_becomes_int8_and_a_bundle_on_items_without_labels(items, onnx_file, tmp_path):
    source = Source(reference=f"onnx:{onnx_file}", data=items)
    chosen = step({"int8_ptq": {"batch_size": 16}}, "compress")
    small = compress_one(source, chosen, tmp_path / "out", NullListener())
    assert small.is_quantized
    assert small.scores == {}
    packed = tmp_path / "bundle.zip"
    assert package_one(Source(reference=str(small.folder)), [], packed, NullListener()).passed
    with zipfile.ZipFile(packed) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["classes"] == []
    assert "accuracy.top1" not in manifest["accuracy"]


def test_a_run_measures_agreement_and_says_why_there_is_no_accuracy(items, run_project, project):
    overrides = [
        f"data={json.dumps({'name': 'unlabelled', **items.parameters})}",
        "teacher.train={epochs: 0}",
        "student=null",
        "distill=null",
        "gates=[]",
        "compress=[{int8_ptq: {batch_size: 16}}]",
    ]
    result = run_project(*overrides, until="bench")
    records = [r for r in result.records if r.metric in ("accuracy.top1", "agreement.top1")]
    found = {(r.label, r.metric): (r.value, r.skipped) for r in records}
    assert found["teacher", "accuracy.top1"] == (None, "the test items have no labels")
    assert found["int8_ptq", "agreement.top1"][0] > 0.5
    assert "validation_accuracy" not in open_artifact(result.teacher.folder).scores


def test_a_student_and_a_recovery_learn_from_the_teacher_alone(items, run_project, project):
    taught = "{scheme: unlabelled, epochs: 1, losses: [kd]}"
    overrides = [
        f"data={json.dumps({'name': 'unlabelled', **items.parameters})}",
        "teacher.train={epochs: 0}",
        f"distill={taught}",
        "gates=[]",
        f"compress=[{{prune_channels: {{ratio: 0.3, importance: bn_scale, recover: {taught}}}}}]",
    ]
    result = run_project(*overrides, until="bench")
    stages = json.loads((project / "run" / "summary.json").read_text())["stages"]
    made = {s["stage"]: open_artifact(project / "run/artifacts" / s["artifact"]) for s in stages}
    for stage in ("distill", "compress"):
        assert not any("accuracy" in name for name in made[stage].scores)
    agreements = [r.value for r in result.records if r.metric == "agreement.top1"]
    assert len(agreements) >= 2
    assert "nan" not in (project / "run" / "report.md").read_text().lower()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("teacher.train={epochs: 1}", "teacher.train needs labels"),
        ("compress=[{prune_channels: {recover: {epochs: 1}}}]", "training of `prune_channels`"),
        ("compress=[{int8_ptq: {max_drop: 1pp}}]", "`max_drop` of `int8_ptq` needs labels"),
        ("compress=[{int8_qat: {epochs: 1}}]", "the training of `int8_qat` needs labels"),
        ('gates=["accuracy.top1: -1pp"]', "accuracy.top1: -1pp needs labels"),
    ],
)
def test_what_needs_labels_is_refused_before_anything_is_written(
    items, run_project, project, override, says
):
    data = f"data={json.dumps({'name': 'unlabelled', **items.parameters})}"
    plain = [data, "teacher.train={epochs: 0}", "student=null", "distill=null", "gates=[]"]
    with pytest.raises(DataError, match=says) as caught:
        run_project(*plain, "compress=[]", override, out="refused")
    assert "data with labels" in caught.value.hint
    assert not (project / "refused").exists()


def test_a_step_that_reads_labels_is_refused(items, tmp_path):
    source = Source(reference=f"{TINY_BUILD}:net", as_built=True, data=items)
    chosen = step({"prune_channels": {"ratio": 0.3, "importance": "taylor"}}, "compress")
    with pytest.raises(DataError, match="reads the labels of `unlabelled`") as caught:
        compress_one(source, chosen, tmp_path / "out", NullListener())
    assert "bn_scale" in caught.value.hint
