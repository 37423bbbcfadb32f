"""Decoding as operators, against the decoders of the tasks in numpy."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.folded_output import fold_decoding

TASKS = {
    "ctc": ((9, 6), {}, {"blank": 0, "alphabet": "abcde"}),
    "tokens": ((7, 4), {}, {"classes": ["a", "b", "c", "d"]}),
    "segmentation": ((3, 6, 5), {}, {"classes": ["a", "b", "c"], "size": [12, 16]}),
    "multi_label": ((5,), {"threshold": 0.4}, {"labels": list("abcde")}),
    "regression": ((2,), {"standardize": True}, {"mean": [3.0, -100.0], "std": [2.0, 40.0]}),
    "embedding": ((8,), {}, {}),
    "keypoint_heatmaps": ((4, 6, 5), {}, {"size": [24, 20]}),
}


def identity(**shapes):
    ports = [
        [
            helper.make_tensor_value_info(prefix + name, TensorProto.FLOAT, ["batch", *shape])
            for name, shape in shapes.items()
        ]
        for prefix in ("in.", "")
    ]
    nodes = [helper.make_node("Identity", [f"in.{name}"], [name]) for name in shapes]
    graph = helper.make_graph(nodes, "identity", *ports)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def answers(outputs, task, **options):
    """Return what a file answers that decodes these outputs, and the task that reads it."""
    model = ir.from_proto(identity(**{name: x.shape[1:] for name, x in outputs.items()}))
    read = fold_decoding(model, task, **options)
    written = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    onnx.checker.check_model(written, full_check=True)
    session = onnxruntime.InferenceSession(written.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {f"in.{name}": x for name, x in outputs.items()})
    return dict(zip(names, found, strict=True)), read


def item(outputs, row):
    return {name: x[row : row + 1] for name, x in outputs.items()}


def flat(told):
    if isinstance(told, dict):
        return [part for name in sorted(told) for part in (name, *flat(told[name]))]
    return [part for one in told for part in flat(one)] if isinstance(told, list) else [told]


@pytest.mark.parametrize("name", TASKS)
def test_a_folded_answer_reads_as_the_raw_one(name):
    shape, parameters, found = TASKS[name]
    task = {"name": name, "parameters": parameters, "found": found}
    raw = {"y": np.random.default_rng(3).standard_normal((4, *shape)).astype(np.float32) * 2}
    folded, read = answers(raw, task)
    decode = import_module(f"kdeploy.tasks.decoding.{name}").decode
    for row in range(4):
        one, other = flat(decode(item(raw, row), task)), flat(decode(item(folded, row), read))
        assert [x for x in one if isinstance(x, str)] == [x for x in other if isinstance(x, str)]
        numbers = [[x for x in told if not isinstance(x, str)] for told in (one, other)]
        np.testing.assert_allclose(*numbers, rtol=1e-5, atol=1e-5)


def test_class_scores_become_probabilities_and_those_stay():
    raw = {"logits": np.array([[2.0, 0.0, -1.0], [100.0, 0.0, 99.0]], np.float32)}
    folded, read = answers(raw, {})
    expected = np.exp(raw["logits"] - raw["logits"].max(1, keepdims=True))
    np.testing.assert_allclose(
        folded["probabilities"], expected / expected.sum(1, keepdims=True), rtol=1e-6, atol=1e-30
    )
    assert read == {}
    kept, _ = answers(raw, {}, are_logits=False)
    np.testing.assert_array_equal(kept["logits"], raw["logits"])


def test_numbers_come_in_their_own_unit():
    task = {"name": "regression", "parameters": {"standardize": True}}
    task["found"] = {"mean": [10.0], "std": [4.0]}
    folded, read = answers({"y": np.array([[0.5]], np.float32)}, task)
    assert folded["values"].tolist() == [[12.0]]
    assert read["parameters"] == {"standardize": False}


def test_one_channel_is_a_class_beside_none():
    task = {"name": "segmentation", "parameters": {}}
    task["found"] = {"classes": ["none", "thing"], "size": [4, 4]}
    raw = {"y": np.linspace(-3, 3, 16, dtype=np.float32).reshape(1, 1, 4, 4)}
    folded, _ = answers(raw, task)
    np.testing.assert_allclose(
        folded["probabilities"][0, 1], 1 / (1 + np.exp(-raw["y"][0, 0])), rtol=1e-5
    )


def test_suppression_is_for_detectors_alone():
    with pytest.raises(ModelError, match="this is `classification`") as caught:
        answers({"y": np.zeros((1, 3), np.float32)}, {}, suppresses=True)
    assert "--fold-suppression" in caught.value.hint
