from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.bench.model_under_test import ModelUnderTest
from kdeploy.bench.plan import Plan
from kdeploy.bench.ssh import job as job_module
from kdeploy.bench.ssh.job import job_of
from kdeploy.data.contract import TaskReference
from kdeploy.data.load import DataReference, load
from kdeploy.machine import Machine
from kdeploy.tasks.contract import task_of
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
    assert not any(g.made[0].is_real or g.with_accuracy for g in job.groups)


@pytest.mark.parametrize("size", [1, 3])
def test_every_pool_is_whole_batches(float_file, data, tmp_path, size):
    job = _job(float_file, data, tmp_path / f"job{size}")
    for group in job.groups:
        [pool] = group.pools
        assert len(np.load(job.files[pool])) % group.configuration.batch_size == 0


@pytest.mark.parametrize(
    ("task", "answers"),
    [*((name, "outputs") for name in ("regression", "segmentation")), ("", "classes")],
)
def test_classes_come_home_as_classes_and_other_answers_as_they_are(
    float_file, tmp_path, task, answers
):
    own = arrays_of(task or "classification")
    for part in ("train", "test"):
        np.savez(tmp_path / f"{part}.npz", x=own[0], y=own[1])
    files = {part: str(tmp_path / f"{part}.npz") for part in ("train", "test")}
    reference = DataReference(name="arrays", parameters=files)
    if task:
        reference = replace(reference, task=TaskReference(name=task))
    known = task_of(load(reference))
    assert replace(_job(float_file, None, tmp_path / "job"), task=known).answers == answers


def test_each_runtime_measures_the_files_that_it_opens(float_file, data, tmp_path):
    litert = tmp_path / "m.tflite"
    litert.write_bytes(b"\x1c\0\0\0TFL3")
    models = [
        ModelUnderTest(artifact="a", label="a", path=float_file, format="onnx"),
        ModelUnderTest(artifact="b", label="b", path=litert, format="litert"),
    ]
    runtimes = ["onnxruntime_cpu", "openvino", "litert", "torch_eager"]
    timing = {"minimum_seconds": 1, "minimum_count": 1, "timeout_seconds": 1}
    plan = Plan(data=data, accuracy=True, runtimes=runtimes, threads=[1], **timing)
    job = job_of(models, plan, tmp_path)
    assert [(g.runtime, g.members) for g in job.groups] == [
        ("onnxruntime_cpu", (0,)),
        ("openvino", (0,)),
        ("litert", (1,)),
    ]
    assert all(g.with_accuracy for g in job.groups)
    asked = json.loads(job.request({"k": job.groups[2].on(BOARD)}))["groups"]
    assert [m["name"] for m in asked[0]["subjects"]] == ["b"]
    assert job.groups[0].pools == job.groups[1].pools
    assert not any(name.endswith(".tflite") for name in job.files_for(job.groups[:2]))


def test_items_of_several_inputs_travel_by_name(tmp_path):
    numbers = np.arange(9 * 7, dtype=np.float32).reshape(9, 7)
    arrays = {"a": numbers[:, :3], "b": numbers[:, 3:].reshape(9, 2, 2)}
    for part in ("train", "test"):
        np.savez(tmp_path / f"{part}.npz", y=np.arange(9) % 3, **arrays)
    files = {part: str(tmp_path / f"{part}.npz") for part in ("train", "test")}
    path = write_two_inputs(tmp_path / "two.onnx", {n: x.shape[1:] for n, x in arrays.items()})
    job = _job(path, DataReference(name="arrays", parameters=files), tmp_path / "job")
    told = job.groups[0].made[0].inputs
    assert [one["name"] for one in told] == ["a", "b"]
    with np.load(job.files[job.items]) as sent:
        assert sorted(sent.files) == ["item.a", "item.b"]
        assert len(sent["item.a"]) == 9


def write_two_inputs(path, shapes):
    """Write a model of inputs by these names: the first two numbers of both, added."""
    value, nodes = helper.make_tensor_value_info, []
    for name in shapes:
        nodes.append(helper.make_node("Flatten", [name], [f"{name}_flat"]))
        nodes.append(
            helper.make_node("ReduceSum", [f"{name}_flat", "axes"], [f"{name}_sum"], keepdims=1)
        )
    nodes.append(helper.make_node("Concat", ["a_sum", "b_sum", "a_sum"], ["logits"], axis=1))
    ports = [value(n, TensorProto.FLOAT, ["batch", *shape]) for n, shape in shapes.items()]
    out = [value("logits", TensorProto.FLOAT, ["batch", 3])]
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    graph = helper.make_graph(nodes, "two", ports, out, [axes])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path
