from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from kdeploy.bench.model_under_test import ModelUnderTest
from kdeploy.bench.plan import Plan
from kdeploy.bench.ssh import job as job_module
from kdeploy.bench.ssh.job import _unjudged, job_of
from kdeploy.data.contract import TaskReference
from kdeploy.data.load import DataReference, load
from kdeploy.machine import Machine
from tests.tiny.tasks import arrays_of

BOARD = Machine(id="abc", cpu="Cortex-A76", architecture="aarch64", cores=4, python="3.11.2")


def _job(path, data, folder, **changed):
    folder.mkdir()
    given = {"accuracy": True, "minimum_seconds": 0.1, "minimum_count": 20, "timeout_seconds": 9}
    plan = Plan(data=data, batch_sizes=[2, 1], threads=[None, 1], **{**given, **changed})
    model = ModelUnderTest(artifact="a", label="a", path=path, format="onnx")
    return job_of([model], plan, folder)


def test_all_cores_are_those_of_the_device(float_file, data, tmp_path):
    job = _job(float_file, data, tmp_path / "job")
    groups = [group.on(BOARD) for group in job.groups]
    assert [(g.configuration.batch_size, g.configuration.threads) for g in groups] == [
        (2, 4),
        (2, 1),
        (1, 4),
        (1, 1),
    ]
    assert [g.with_accuracy for g in groups] == [True, False, False, False]


def test_a_result_is_kept_under_all_that_it_depends_on(float_file, int8_file, data, tmp_path):
    job = _job(float_file, data, tmp_path / "job")
    group = job.groups[0].on(BOARD)
    others = [
        _job(int8_file, data, tmp_path / "file"),
        _job(float_file, None, tmp_path / "noise"),
        _job(float_file, data, tmp_path / "longer", minimum_seconds=0.2),
    ]
    keys = {other.key(other.groups[0].on(BOARD), BOARD) for other in others}
    keys |= {job.key(job.groups[1].on(BOARD), BOARD)}
    keys |= {job.key(group, Machine(**{**BOARD.to_dict(), "id": "other"}))}
    assert len(keys) == 5
    assert job.key(group, BOARD) not in keys
    again = _job(float_file, data, tmp_path / "again")
    assert again.key(again.groups[0].on(BOARD), BOARD) == job.key(group, BOARD)
    assert again.name == job.name


def test_what_travels_is_named_after_its_contents(float_file, data, tmp_path):
    job = _job(float_file, data, tmp_path / "job")
    asked = json.loads(job.request({"k": job.groups[0].on(BOARD), "l": job.groups[1].on(BOARD)}))
    named = {
        model[key] for g in asked["groups"] for model in g["subjects"] for key in ("file", "pool")
    }
    assert {*named, asked["items"]} == set(job.files_for(job.groups[:2]))
    assert job.files[job.model_files[0]] == float_file


def test_few_items_travel_where_all_are_too_many(float_file, data, tmp_path, monkeypatch):
    test = load(data).test
    monkeypatch.setattr(job_module, "ITEMS_BYTES", test.x[:30].nbytes)
    job = _job(float_file, data, tmp_path / "job")
    assert (len(job.test.items), job.test.total) == (30, 70)
    rows = [np.flatnonzero((test.x == item).all(axis=(1, 2, 3))).item() for item in job.test.items]
    np.testing.assert_array_equal(job.test.targets, test.y[rows])
    assert max(rows) >= 30  # drawn from all, because classes may follow one another


def test_weights_beside_a_file_travel_in_it(float_file, data, tmp_path):
    path = tmp_path / "outside.onnx"
    settings = {"location": "outside.weights", "size_threshold": 0}
    onnx.save(onnx.load(float_file), path, save_as_external_data=True, **settings)
    job = _job(path, data, tmp_path / "job")
    [sent] = [job.files[name] for name in job.model_files]
    assert sent != path
    assert not any(
        t.external_data for t in onnx.load(sent, load_external_data=False).graph.initializer
    )


def test_without_data_there_is_noise_and_no_accuracy(float_file, tmp_path):
    job = _job(float_file, None, tmp_path / "job")
    assert job.test is None
    assert not any(g.is_real or g.with_accuracy for g in job.groups)


@pytest.mark.parametrize("size", [1, 3])
def test_every_pool_is_whole_batches(float_file, data, tmp_path, size):
    job = _job(float_file, data, tmp_path / f"job{size}")
    for group in job.groups:
        [pool] = group.pools
        assert len(np.load(job.files[pool])) % group.configuration.batch_size == 0


@pytest.mark.parametrize("task", ["regression", "segmentation", "multi_label", "embedding"])
def test_answers_that_are_no_classes_are_not_judged_there(float_file, tmp_path, task):
    own = arrays_of(task)
    for part in ("train", "test"):
        np.savez(tmp_path / f"{part}.npz", x=own[0], y=own[1])
    files = {part: str(tmp_path / f"{part}.npz") for part in ("train", "test")}
    loaded = load(DataReference(name="arrays", parameters=files, task=TaskReference(name=task)))
    assert f"task `{task}`" in _unjudged(loaded)
    assert not _unjudged(replace(loaded, task=None))
