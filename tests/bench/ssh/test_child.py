from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from kdeploy.bench.ssh.device.child import ChildSession
from kdeploy.data.load import load


@pytest.fixture
def opened(tmp_path, data):
    """Return a function that opens a file in a session of its own."""
    np.save(tmp_path / "pool.npy", np.ones((6, 2, 6, 6), np.float32))
    np.save(tmp_path / "items.npy", load(data).test.x)

    def open_file(path, runtime="onnxruntime_cpu"):
        session = ChildSession()
        pool = str(tmp_path / "pool.npy")
        request = {"do": "open", "path": str(path), "pool": pool, "threads": 1, "batch_size": 3}
        request["runtime"] = runtime
        return session, session.answer(request)

    return open_file


def _answers(session, tmp_path, data, kind):
    request = {
        "do": "predict",
        "answers": kind,
        "items": str(tmp_path / "items.npy"),
        "preprocessing": json.loads(json.dumps(load(data).preprocessing.to_dict())),
        "file": str(tmp_path / "answers.npz"),
    }
    assert session.answer(request) == {"reply": {}}
    with np.load(tmp_path / "answers.npz") as found:
        return {name.removeprefix("answer."): found[name] for name in found.files}


def _predictions(session, tmp_path, data):
    return _answers(session, tmp_path, data, "classes")["predictions"]


def test_predicts_every_item_whatever_batch_the_file_takes(
    opened, float_file, fixed_file, tmp_path, data
):
    whole = onnxruntime.InferenceSession(float_file, providers=["CPUExecutionProvider"])
    expected = whole.run(None, {"x": load(data).test.x})[0].argmax(axis=1)
    for path in (float_file, fixed_file):
        session, answer = opened(path)
        assert answer["reply"]["load_seconds"] > 0
        assert answer["reply"]["loaded_bytes"] >= answer["reply"]["empty_bytes"] > 0
        np.testing.assert_array_equal(_predictions(session, tmp_path, data), expected)


def test_answers_come_home_as_they_are_where_they_are_no_classes(
    opened, float_file, tmp_path, data, monkeypatch
):
    session, _ = opened(float_file)
    found = _answers(session, tmp_path, data, "outputs")
    whole = onnxruntime.InferenceSession(float_file, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(
        found["y"], whole.run(None, {"x": load(data).test.x})[0], rtol=1e-5, atol=1e-6
    )
    monkeypatch.setattr("kdeploy.bench.ssh.device.child.MOST_ANSWER_BYTES", 100)
    request = {"do": "predict", "answers": "outputs", "items": str(tmp_path / "items.npy")}
    request["preprocessing"] = load(data).preprocessing.to_dict()
    assert "more than are brought home" in session.answer(request)["error"]


def test_another_runtime_answers_and_proves_itself(opened, int8_file, tmp_path, data):
    pytest.importorskip("openvino")
    session, answer = opened(int8_file, "openvino")
    assert answer["reply"]["load_seconds"] > 0
    here, _ = opened(int8_file)
    expected = _predictions(here, tmp_path, data)
    assert (_predictions(session, tmp_path, data) == expected).mean() > 0.9
    proof = session.answer({"do": "proof", "folder": str(tmp_path)})["reply"]["proof"]
    assert proof["is_quantized"]
    assert proof["provider"] == "CPU"


def test_a_state_goes_from_call_to_call(tmp_path):
    value = helper.make_tensor_value_info
    ports = [value(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "sum", "next")]
    node = helper.make_node("Add", ["x", "sum"], ["next"])
    graph = helper.make_graph([node], "adds", ports[:2], ports[2:])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "s.onnx")
    with (tmp_path / "pool.npy").open("wb") as file:
        np.savez(file, np.ones((4, 2), np.float32))
    session = ChildSession()
    state = {"input": "sum", "output": "next", "shape": ["batch", 2], "dtype": "float32"}
    asked = {"path": str(tmp_path / "s.onnx"), "pool": str(tmp_path / "pool.npy")}
    asked |= {"inputs": [{"name": "x", "rows": True}], "state": [state], "batch_size": 1}
    session.answer({"do": "open", "runtime": "onnxruntime_cpu", "threads": 1, **asked})
    assert session._infer(session._batches[0])["next"].tolist() == [[2.0, 2.0]]


def test_times_what_is_asked(opened, float_file, tmp_path):
    session, _ = opened(float_file)
    file = str(tmp_path / "samples.npy")
    answer = session.answer({"do": "measure", "seconds": 0.001, "count": 7, "file": file})
    assert answer["reply"]["elapsed_seconds"] > 0
    assert len(np.load(file)) >= 7


def test_proof_leaves_no_file(opened, int8_file, tmp_path):
    (tmp_path / "work").mkdir()
    session, _ = opened(int8_file)
    proof = session.answer({"do": "proof", "folder": str(tmp_path / "work")})["reply"]
    assert proof["operators"]["QLinearConv"] == 1
    assert "QLinearConv" not in proof["stored_operators"]
    assert list((tmp_path / "work").iterdir()) == []


def test_a_file_that_cannot_run_is_a_reason(opened, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no")
    assert "error" in opened(tmp_path / "broken.onnx")[1]
    value = helper.make_tensor_value_info
    ports = [value(name, TensorProto.FLOAT, [3]) for name in ("a", "b", "y")]
    node = helper.make_node("Add", ["a", "b"], ["y"])
    graph = helper.make_graph([node], "two", ports[:2], ports[2:])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "two.onnx")
    assert "takes 2 inputs (a, b), not one" in opened(tmp_path / "two.onnx")[1]["error"]


def test_of_several_outputs_classes_are_read_of_the_logits(opened, float_file, tmp_path, data):
    model = onnx.load(float_file)
    own = model.graph.output[0].name
    for name in ("mask", "logits"):
        extra = helper.make_node("Neg" if name == "mask" else "Identity", [own], [name])
        model.graph.node.append(extra)
        info = onnx.ValueInfoProto()
        info.CopyFrom(model.graph.output[-1])
        info.name = name
        model.graph.output.append(info)
    del model.graph.output[0]
    onnx.save(model, tmp_path / "two.onnx")
    session, _ = opened(tmp_path / "two.onnx")
    whole = onnxruntime.InferenceSession(float_file, providers=["CPUExecutionProvider"])
    expected = whole.run(None, {"x": load(data).test.x})[0].argmax(axis=1)
    np.testing.assert_array_equal(_predictions(session, tmp_path, data), expected)
    model.graph.output[1].name = model.graph.node[-1].output[0] = "scores"
    onnx.save(model, tmp_path / "two.onnx")
    session, _ = opened(tmp_path / "two.onnx")
    request = {"do": "predict", "answers": "classes", "items": str(tmp_path / "items.npy")}
    request["preprocessing"] = load(data).preprocessing.to_dict()
    assert "none is `logits`" in session.answer(request)["error"]
