"""What a bundle that was signed again may not say: one table, refused by both of its readers."""

from __future__ import annotations

import dataclasses
import json
import typing

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdeploy.errors import ArtifactCorrupt
from kdeploy.package.checksums import write_sums
from kdeploy.package.golden import Tolerance
from kdeploy.package.manifest import Manifest
from kdeploy.package.runner.python.rules import RULES, allowances
from kdeploy.package.runner.python.schema import ABSENT
from kdeploy.package.verify import verify

M, T = "manifest.json", "golden/tolerance.json"


def put(*places, value):
    def change(fields):
        for place in places[:-1]:
            fields = fields[place]
        fields[places[-1]] = value

    return change


def far(told):
    """Return a tolerance of outputs of which single numbers move far, all of them little."""
    std = told["output_std"]
    return {"atol": std, "spread": std, "rms_spread": std / 20, "rms_atol": std / 5}


def swapped(fields):
    fields["classes"].reverse()


def classes_twice(fields):
    fields["classes"] = fields["preprocessing"]["classes"] = ["a", "a", "b"]


def fewer(fields):
    fields["classes"] = fields["preprocessing"]["classes"] = ["a", "b"]


CONTRADICTIONS = [
    (T, put("atol", value=1e308), "atol"),
    (T, put("atol", value=float("inf")), "Infinity"),
    (T, put("atol", value=float("nan")), "NaN"),
    (T, put("atol", value=0), "atol"),
    (T, put("atol", value=-1.0), "atol"),
    (T, put("atol", value="1"), "atol"),
    (T, put("atol", value=True), "atol"),
    (T, put("atol", value=0.9), "does not follow"),
    (T, lambda t: t.update(atol=1e9, spread=1e9), "does not follow"),
    (T, lambda t: t.update(atol=t["output_std"] / 10, floor_of_std=0.1), "is not quantized"),
    (T, put("spread_margin", value=1e9), "spread_margin"),
    (T, put("output_std", value=-1), "output_std"),
    (T, put("rms_atol", value=0.1), "given together"),
    (T, lambda t: t.update(rms_atol=0.1, rms_spread=0.1), "move by more"),
    (T, lambda t: t.update(far(t), rms_atol=t["output_std"] / 3), "does not follow"),
    (T, lambda t: t.update(far(t), rms_spread=-1.0), "rms_spread"),
    (T, put("num_items", value=3), "golden/inputs.npz"),
    (T, put("num_items", value=-1), "num_items"),
    (T, put("top1_items", value=[0, 0]), "top1_items"),
    (T, put("top1_items", value=[99]), "top1_items"),
    (T, put("top1_items", value=[-1]), "top1_items"),
    (T, put("top1_items", value={}), "top1_items"),
    (M, put("preprocessing", "scale", value=float("nan")), "NaN"),
    (M, put("preprocessing", "scale", value=-1.0), "preprocessing.scale"),
    (M, put("preprocessing", "scale", value=0), "preprocessing.scale"),
    (M, put("preprocessing", "scale", value=1e308), "preprocessing.scale"),
    (M, put("preprocessing", "std", value=[-0.3]), "preprocessing.std.0"),
    (M, put("preprocessing", "std", value=[0.0]), "preprocessing.std.0"),
    (M, put("preprocessing", "std", value=[0.3, 0.3]), "mean and std"),
    (M, put("preprocessing", "mean", value=[1e39]), "preprocessing.mean.0"),
    (M, put("preprocessing", "shape", value=[1, 8, -8]), "preprocessing.shape.2"),
    (M, put("preprocessing", "shape", value=[2**40, 2**40, 2**40]), "preprocessing.shape.0"),
    (M, put("preprocessing", "background", value=[0, 0, 256]), "preprocessing.background.2"),
    (M, put("preprocessing", "background", value=[0]), "preprocessing.background"),
    (M, put("preprocessing", "vocabulary", value=None), "preprocessing.vocabulary"),
    (M, put("preprocessing", "layout", value="NT"), "layout NT"),
    (M, put("preprocessing", "vocabulary", value=5), "vocabulary"),
    (M, put("model", "size", value=-5), "model.size"),
    (M, put("model", "size", value=6), "6 bytes, found"),
    (M, put("model", "opset", value=-18), "model.opset"),
    (M, put("model", "opset", value=18.0), "model.opset"),
    (M, put("schema_version", value=-1), "schema_version"),
    (M, put("schema_version", value=True), "schema_version"),
    (M, put("model", "is_quantized", value=True), "holds no quantized operator"),
    (M, put("model", "file", value="../../etc/passwd"), "model.file"),
    (M, put("model", "file", value="/etc/passwd"), "model.file"),
    (M, put("model", value=None), "model is null"),
    (M, lambda m: m.pop("model"), "model is absent"),
    (M, put("model", value=[]), "model is []"),
    (M, swapped, "not the same names in one order"),
    (M, classes_twice, "two classes"),
    (M, fewer, "2 classes for outputs"),
    (M, put("classes", value="abc"), "classes"),
    (M, put("classes", value=[1, 2, 3]), "classes.0"),
    (M, put("licences", 0, "file", value="../../../etc/shadow"), "licences.0.file"),
    (M, put("licences", 0, "file", value="LICENSES/other.txt"), "not there"),
    (M, put("recorded", "size", value=1.0), "recorded.size"),
    (M, put("recorded", "accuracy.top1", value=1.5), "accuracy.top1"),
    (M, put("recorded", "accuracy.top1", value=0.99), "recorded as 0.99"),
    (M, put("recorded", "parameters", value=-5), "parameters"),
    (M, put("recorded", value={"macs": "many"}), "recorded.macs"),
    (M, put("budgets", 0, "bound", value=float("inf")), "Infinity"),
    (M, put("budgets", 0, "judged", value="recorded"), "judged by what nobody measured"),
    (M, put("budgets", 0, "metric", value="latency.p50"), "judges latency.p50"),
    (M, put("budgets", value={"a": 1}), "budgets"),
    (M, put("inputs", value=[]), "inputs"),
    (M, put("inputs", 0, "shape", value=["batch", 1, 8, 2**40]), "inputs.0.shape.3"),
    (M, put("inputs", 0, "shape", value=[2, 1, 8, 8]), "the file takes"),
    (M, put("outputs", 0, "shape", value=[]), "outputs"),
    (M, put("name", value=["x"]), "name"),
    (M, put("name", value=""), "name"),
    (M, put("lineage", value=[None]), "lineage.0"),
    (M, put("made_with", value={"numpy": 2}), "made_with.numpy"),
]


@pytest.fixture
def budgeted(make_bundle, tmp_path):
    return make_bundle(tmp_path / "bundle", budgets=["peak_memory: <= 16GB"])


@pytest.mark.parametrize(("name", "change", "named"), CONTRADICTIONS)
def test_both_readers_refuse_what_cannot_be(
    budgeted, signed_again, runner, monkeypatch, capsys, name, change, named
):
    signed_again(budgeted, name, change)
    monkeypatch.setattr(runner, "_limited", lambda *_: pytest.fail("the model was run"))
    assert runner.main(["--self-test", "--json", "--bundle", str(budgeted)]) == 1
    *_, last = json.loads(capsys.readouterr().out)["checks"]
    assert last["check"] == "manifest"
    assert named in last["reason"]
    with pytest.raises(ArtifactCorrupt) as caught:
        verify(budgeted)
    assert named in caught.value.message
    assert len(caught.value.message) < 500


def test_a_bundle_as_packaged_breaks_no_rule(budgeted, runner, capsys):
    assert runner.main(["--self-test", "--json", "--bundle", str(budgeted)]) == 0
    checks = {c["check"]: c["passed"] for c in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["manifest"]


def test_the_table_has_a_rule_for_every_field_that_is_written():
    def fields(kind, prefix=""):
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            yield f"{prefix}{field.name}"
            inner = [hints[field.name], *typing.get_args(hints[field.name])]
            for one in (i for i in inner if dataclasses.is_dataclass(i)):
                mark = "[]" if typing.get_origin(hints[field.name]) is tuple else ""
                yield from fields(one, f"{prefix}{field.name}{mark}.")

    ruled = {name: {key.replace("?", "") for key, *_ in rules} for name, rules in RULES.items()}
    assert set(fields(Manifest)) <= ruled[M]
    assert set(fields(Tolerance)) <= ruled[T]


def test_what_is_absent_passes_no_rule():
    tables = (*RULES.values(),)
    assert not [key for rules in tables for key, test, _ in rules if test(ABSENT)]


def test_a_quantized_graph_that_the_manifest_denies_is_refused(bundle, tiny, signed_again):
    model = onnx.load(tiny.path)
    model.graph.node.insert(
        0, helper.make_node("DynamicQuantizeLinear", ["image"], ["q", "s", "z"])
    )
    model.graph.node.insert(1, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]))
    onnx.save(model, bundle / "model.onnx")
    signed_again(bundle, T, lambda t: None)
    with pytest.raises(ArtifactCorrupt, match=r"is_quantized is false, and model\.onnx holds Deq"):
        verify(bundle)


def test_constant_outputs_may_be_as_far_off_as_float_rounds(make_bundle, tmp_path, run_onnx, tiny):
    graph = onnx.load(tiny.path).graph
    for tensor in graph.initializer:
        if tensor.name == "fb":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32([1e6, 1e6, 1e6]), "fb"))
        elif tensor.name == "fc":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros((3, 4), np.float32), "fc"))
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "flat.onnx")
    outputs = run_onnx(tmp_path / "flat.onnx", tiny.inputs)
    golden = (tiny.inputs, outputs)
    bundle = make_bundle(tmp_path / "flat", file=tmp_path / "flat.onnx", golden=golden)
    assert verify(bundle).passed


@pytest.mark.parametrize(
    ("budgets", "size", "expected"),
    [
        ([], 1000, (672, 120.0)),
        ([("peak_memory", 1e9)], 1000, (1907, 120.0)),
        ([("peak_memory", 1e15)], 1000, (4096, 120.0)),
        ([("latency.p50", 2.0)], 1000, (672, 400.0)),
        ([("latency.p50", 1e9)], 200 * 2**20, (1600, 600.0)),
    ],
)
def test_what_a_model_may_take_follows_its_budgets_between_floor_and_ceiling(
    budgets, size, expected
):
    stated = [{"metric": m, "bound": b, "is_upper": True} for m, b in budgets]
    assert allowances({"budgets": stated, "model": {"size": size}}, 2) == expected


def bomb(kind):
    """Return a model of 300 bytes that asks for 13 GB, or for hours."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    start = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Slice", ["flat", "zero", "three", "one"], ["first"]),
    ]
    numbers = {"zero": [0], "three": [3], "one": [1], "many": [60_000, 60_000]}
    stored = [helper.make_tensor(k, TensorProto.INT64, [len(v)], v) for k, v in numbers.items()]
    if kind == "memory":
        last = [
            helper.make_node("ReduceSum", ["first"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Mul", ["whole", "zero"], ["nothing"]),
            helper.make_node("Add", ["many", "nothing"], ["size"]),
            helper.make_node("ConstantOfShape", ["size"], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["total"], keepdims=0),
            helper.make_node("Add", ["first", "total"], ["logits"]),
        ]
    else:
        inner = helper.make_graph(
            [
                helper.make_node("Add", ["state", "state"], ["next"]),
                helper.make_node("Identity", ["go"], ["goes"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("turn", TensorProto.INT64, []),
                helper.make_tensor_value_info("go", TensorProto.BOOL, []),
                helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
            ],
            [
                helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
                helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
            ],
        )
        stored += [helper.make_tensor("turns", TensorProto.INT64, [], [2**40])]
        last = [helper.make_node("Loop", ["turns", "", "first"], ["logits"], body=inner)]
    graph = helper.make_graph(start + last, "bomb", [image], [logits], stored)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize(("kind", "said"), [("memory", "--memory-limit"), ("time", "--timeout")])
def test_a_model_that_takes_the_machine_is_stopped_and_said(bundle, signed_again, kind, said):
    onnx.save(bomb(kind), bundle / "model.onnx")
    signed_again(bundle, T, lambda t: None)
    write_sums(bundle)
    result = verify(bundle, timeout_seconds=60 if kind == "memory" else 8)
    assert not result.passed
    failed = [c for c in result.checks if not c["passed"]]
    assert [c["check"] for c in failed] == ["run"]
    assert said in failed[0]["reason"]
