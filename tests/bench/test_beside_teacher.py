from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.bench.accuracy import evaluate
from kdeploy.bench.beside_teacher import BesideTeacher
from kdeploy.bench.plan import Plan
from kdeploy.bench.run import ModelUnderTest, bench
from kdeploy.data.contract import TaskReference
from kdeploy.data.load import DataReference, load
from kdeploy.errors import ModelError
from kdeploy.measurement import select
from kdeploy.named_arrays import NamedArrays
from tests.tiny.text import TOKENS, VOCABULARY, continued


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Return sequences that count upwards, as data of language modelling."""
    folder = tmp_path_factory.mktemp("text")
    x, y = continued()
    for part in ("train", "test"):
        np.savez(folder / f"{part}.npz", x=x, y=y)
    task = TaskReference(name="language_modeling")
    files = {part: str(folder / f"{part}.npz") for part in ("train", "test")}
    return DataReference(name="arrays", parameters=files, task=task)


@pytest.fixture(scope="module")
def data(reference):
    return load(reference)


def model(seed=0, noise=1.0, vocabulary=VOCABULARY):
    """Return a table of pairs that mostly knows the next id."""
    table = 4 * np.eye(VOCABULARY, vocabulary, k=1, dtype=np.float32)
    table += noise * np.random.default_rng(seed).normal(size=table.shape).astype(np.float32)
    return lambda batch: table[batch]


def judged(data, teacher, student, *, file, step, batch_size=1):
    """Return both sides after they answered all windows, so many at a time."""
    part = data.test
    taught, own = (BesideTeacher(m, data, part, batch_size=batch_size) for m in (teacher, student))
    for start in range(0, len(part), step):
        stop = min(start + step, len(part))
        taught.write(start, stop, file)
        own.compare(start, stop, file)
    return taught, own


@pytest.mark.parametrize("step", [7, 64])
def test_answers_are_judged_as_they_are_alone_and_compared_too(data, tmp_path, step):
    teacher, student = model(), model(seed=1)
    taught, own = judged(data, teacher, student, file=tmp_path / "t.npy", step=step)
    for side, infer in ((taught, teacher), (own, student)):
        metrics, predictions = evaluate(infer, data, batch_size=1)
        np.testing.assert_array_equal(side.predictions, predictions)
        beside = {**side.metrics}
        divergence = beside.pop("divergence.next_token", None)
        assert beside == metrics
        assert (divergence is None) is (side is taught)
    found = own.next_tokens
    assert taught.next_tokens is None
    assert found.num_tokens == (data.test.y >= 0).sum()
    assert found.num_differing == (taught.predictions != own.predictions).sum() > 0
    x = np.asarray(data.test.x)
    for one in found.examples:
        assert one.before == tuple(x[one.window, : one.place + 1])
        assert one.label == x[one.window, one.place + 1]
        assert teacher(np.array([one.before[-1]])).argmax() == one.teacher_token


def test_the_file_holds_the_windows_of_one_step_alone(data, tmp_path):
    file = tmp_path / "t.npy"
    judged(data, model(), model(), file=file, step=7)
    left = len(data.test) % 7
    assert np.load(file).shape == (left * (TOKENS - 1), VOCABULARY)


def test_a_file_of_one_batch_size_is_compared_in_that(data, tmp_path):
    def fixed(batch):
        if len(batch) != 4:
            raise ModelError("takes four")
        return model(seed=1)(batch)

    apart = judged(data, model(), fixed, file=tmp_path / "t.npy", step=64, batch_size=4)[1]
    whole = judged(data, model(), model(seed=1), file=tmp_path / "t.npy", step=64)[1]
    assert apart.num_at_once == 4
    assert apart.metrics == whole.metrics
    assert apart.next_tokens == whole.next_tokens


def test_another_vocabulary_is_the_reason_for_no_comparison_and_the_rest_counts(data, tmp_path):
    student = model(vocabulary=VOCABULARY + 2)
    own = judged(data, model(), student, file=tmp_path / "t.npy", step=64)[1]
    assert "[300, 11], the file [300, 13]" in own.reason
    assert own.next_tokens is None
    assert "divergence.next_token" not in own.metrics
    assert "perplexity" in own.metrics


def test_where_the_teacher_failed_on_the_way_nothing_is_compared(data, tmp_path):
    taught, own = (BesideTeacher(model(), data, data.test, batch_size=1) for _ in range(2))
    taught.write(0, 30, tmp_path / "t.npy")
    own.compare(0, 30, tmp_path / "t.npy")
    own.answer(30, 60)
    assert own.reason == "the teacher did not answer every item"
    assert own.next_tokens is None
    assert set(own.metrics) == set(evaluate(model(), data, batch_size=1)[0])


def test_of_several_inputs_the_ids_are_the_text(data, tmp_path):
    mask = np.ones_like(data.test.x)
    part = replace(data.test, x=NamedArrays({"attention_mask": mask, "input_ids": data.test.x}))
    preprocessing = replace(
        data.preprocessing,
        inputs={"attention_mask": data.preprocessing, "input_ids": data.preprocessing},
    )
    several = replace(data, test=part, preprocessing=preprocessing)
    sides = [
        BesideTeacher(lambda x, m=m: m(x["input_ids"]), several, part, batch_size=1)
        for m in (model(), model(seed=1))
    ]
    sides[0].write(0, len(part), tmp_path / "t.npy")
    sides[1].compare(0, len(part), tmp_path / "t.npy")
    assert any(set(one.before) != {1} for one in sides[1].next_tokens.examples)


def table_file(path, infer):
    """Return an ONNX file that looks the next token's logits up: (batch, tokens, vocabulary)."""
    rows = numpy_helper.from_array(infer(np.arange(VOCABULARY)), "rows")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Gather", ["rows", "ids"], ["logits"])],
        "table",
        [value("ids", TensorProto.INT64, ["batch", TOKENS])],
        [value("logits", TensorProto.FLOAT, ["batch", TOKENS, VOCABULARY])],
        [rows],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


def test_bench_compares_files_in_their_runtime_and_keeps_what_differs(reference, tmp_path):
    models = [
        ModelUnderTest(artifact=label, label=label, path=file, format="onnx")
        for label, seed in (("teacher", 0), ("int4", 1))
        for file in [table_file(tmp_path / f"{label}.onnx", model(seed))]
    ]
    plan = Plan(
        runtimes=["onnxruntime_cpu"],
        threads=[1],
        data=reference,
        parts=("test", "validation"),
        minimum_seconds=0.02,
        minimum_count=8,
    )
    kept = {"out": tmp_path, "cache_folder": tmp_path / "kept", "baseline": "teacher"}
    found = bench(models, plan, **kept)
    (line,) = found.next_tokens
    assert (line["label"], line["runtime"]) == ("int4", "onnxruntime_cpu")
    data = load(reference)
    own = judged(data, model(), model(seed=1), file=tmp_path / "t.npy", step=64)[1]
    assert (line["tokens"], line["differing"]) == (300, own.next_tokens.num_differing)
    for records in (found.measurements, found.validation):
        (record,) = select(records, "divergence.next_token")
        assert (record.label, record.unit) == ("int4", "nat")
    (record,) = select(found.measurements, "divergence.next_token")
    assert record.value == pytest.approx(own.metrics["divergence.next_token"], rel=1e-6)
    assert record.value == line["divergence_nats"]
    (agreement,) = select(found.measurements, "agreement.next_token", label="int4")
    assert agreement.value == pytest.approx(1 - line["differing"] / line["tokens"])
    again = bench(models, plan, **kept)
    assert again.measurements == found.measurements
    assert again.next_tokens == found.next_tokens


def test_a_teacher_alone_is_compared_with_nobody(reference, tmp_path):
    file = table_file(tmp_path / "teacher.onnx", model())
    teacher = ModelUnderTest(artifact="t", label="teacher", path=file, format="onnx")
    plan = Plan(threads=[1], data=reference, minimum_seconds=0.02, minimum_count=8)
    found = bench([teacher], plan, baseline="teacher", out=tmp_path)
    assert found.next_tokens == []
    assert select(found.measurements, "divergence.next_token") == []
    assert select(found.measurements, "perplexity")[0].value > 1
