"""What can never come to its end is refused before any work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdeploy.errors import InputError, ModelError, RecipeError, Unavailable
from kdeploy.measurement import METRICS
from kdeploy.pipeline.ahead import check_ahead
from kdeploy.pipeline.run import run
from kdeploy.recipe.resolve import parse
from kdeploy.recipe.sections import STAGES
from kdeploy.registry import techniques
from kdeploy.runtimes.run import formats_of

ORT = [{"ort_format": {}}]
INT8 = [{"int8_ptq": {}}]
ONNX = [{"onnx": {}}]


def recipe(folder, **sections):
    given = {"data": {"name": "digits"}, "teacher": {"build": "build.py:net"}, **sections}
    return parse(given, folder=folder)


@pytest.fixture
def checked(tmp_path, tiny_build, tiny_data):
    """Return a function that checks a recipe on the tiny data."""

    def check(*, data=tiny_data, stages=STAGES, **sections):
        check_ahead(recipe(tmp_path, **sections), data, stages)

    return check


@pytest.mark.parametrize("target", ["onnx_fp16", "torch_export"])
@pytest.mark.parametrize("step", ["int8_ptq", "int8_qat", "int8_dynamic"])
def test_an_exporter_of_floats_beside_an_int8_step(checked, step, target):
    with pytest.raises(RecipeError, match=rf"export\[1\]: `{target}` .* `{step}` makes INT8"):
        checked(compress=[{step: {}}], export=[*ONNX, {target: {}}])


def test_an_exporter_whose_proof_cannot_run_here(checked, monkeypatch):
    monkeypatch.setattr(
        "kdeploy.runtimes.openvino.Openvino.unavailable", staticmethod(lambda: "no library")
    )
    with pytest.raises(Unavailable, match="no library"):
        checked(export=[*ONNX, {"openvino": {}}])
    checked(export=[*ONNX, {"openvino": {}}], stages=STAGES[:3])


def test_sizes_that_the_items_do_not_have(checked, tiny_data):
    checked(export=[{"onnx": {"dynamic": ["height"]}}])
    with pytest.raises(ModelError, match="have no length"):
        checked(export=[{"onnx": {"dynamic": ["length"]}}])


@pytest.mark.parametrize("name", sorted(techniques("runtime")))
def test_every_runtime_has_a_file_or_is_refused_with_the_exporter_that_makes_it(checked, name):
    formats = formats_of(name)
    if formats & {"onnx", "torch"}:
        pytest.skip("opens what every recipe makes")
    asked = {"runtimes": ["onnxruntime_cpu", name]}
    with pytest.raises(RecipeError, match=rf"runtimes\[1\]: `{name}` opens") as caught:
        checked(export=ONNX, bench=asked)
    assert "to `export`" in caught.value.hint


def test_a_runtime_that_needs_a_step_names_it(checked):
    asked = {"runtimes": ["onnxruntime_cpu", "torch_sparse24"]}
    with pytest.raises(RecipeError, match="`two_four` alone"):
        checked(bench=asked)
    checked(bench=asked, compress=[{"two_four": {}}])


def test_runtimes_of_which_none_runs_here(checked, monkeypatch):
    name = "kdeploy.runtimes.torch_eager.TorchEager.unavailable"
    monkeypatch.setattr(name, staticmethod(lambda: "no library"))
    with pytest.raises(Unavailable, match="`torch_eager`: no library"):
        checked(bench={"runtimes": ["torch_eager"]})
    checked(bench={"runtimes": ["torch_eager", "onnxruntime_cpu"]})


@pytest.mark.parametrize(
    ("gate", "bench", "reason"),
    [
        ("accuracy.top1: >= 0.5", {"accuracy": False}, "`bench.accuracy` is false"),
        ("perplexity: <= 9", {}, "not of tokens"),
        ("device_memory: <= 1GB", {}, "runs on cpu"),
        ("server_rate: >= 10", {}, "not `server`"),
        ("offline_batch_size: >= 10", {}, "not `offline`"),
        ("integer_kernels: >= 0.5", {}, "`int8_ptq`"),
        ("sparse_kernels: >= 0.5", {}, "`two_four`"),
    ],
)
def test_a_gate_on_what_nobody_measures(checked, gate, bench, reason):
    with pytest.raises(RecipeError, match="can never hold") as caught:
        checked(gates=[gate], bench=bench)
    assert reason in caught.value.message


def test_a_gate_on_what_a_step_makes_holds_or_not_later(checked):
    checked(gates=["integer_kernels: >= 0.5", "latency.p50: <= 1ms"], compress=INT8)


def test_every_need_of_a_metric_is_known():
    made = {t.facts["makes"] for t in techniques("compressor").values() if "makes" in t.facts}
    known = {"", "accuracy", "tokens", "cuda", "server", "offline", "generate", "dynamic", *made}
    assert {metric.needs for metric in METRICS.values()} <= known


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"export": [{"openvino": {}}], "bench": {"runtimes": ["openvino"]}}, "exports none"),
        ({"export": [{"onnx": {"dynamic": ["height"]}}]}, "open sizes"),
    ],
)
def test_a_bundle_without_a_file_that_fits(checked, sections, said):
    with pytest.raises(RecipeError, match=said):
        checked(package={}, **sections)


def test_a_file_whose_open_sizes_are_those_of_the_data_fits_a_bundle(checked, tmp_path):
    sizes = ["batch", 1, "height", "width"]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, sizes) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph), tmp_path / "open.onnx")
    checked(teacher={"build": "onnx:open.onnx"}, package={}, export=[])


def test_a_bundle_of_inputs_that_its_runner_cannot_make(checked, tiny_data):
    volumes = replace(tiny_data.preprocessing, shape=(1, 2, 3, 12, 12))
    with pytest.raises(RecipeError, match=r"no inputs of shape \[1, 2, 3, 12, 12\]"):
        checked(package={}, data=replace(tiny_data, preprocessing=volumes))


def test_preprocessing_that_folds_into_no_file(checked, tiny_data):
    folds = {"fold_preprocessing": True}
    checked(package=folds)
    x = np.asarray(tiny_data.validation.x[:]).astype(np.float32)
    floats = replace(tiny_data, validation=replace(tiny_data.validation, x=x))
    with pytest.raises(RecipeError, match=r"package: .* the data hold float32") as caught:
        checked(package=folds, data=floats)
    assert "fold_preprocessing" in caught.value.hint
    other = {"export": [{"ort_format": {}}], "bench": {"runtimes": ["ort_format"]}}
    with pytest.raises(RecipeError, match="the one to package is `ort_format`"):
        checked(package=folds, **other)
    with pytest.raises(RecipeError, match="`fold_suppression` adds to"):
        checked(package={"fold_suppression": True})


def test_a_budget_that_no_device_can_judge(checked):
    checked(package={"budgets": ["accuracy.top1: -1pp", "size: <= 1MB", "peak_memory: <= 1GB"]})
    with pytest.raises(InputError, match="energy was not recorded"):
        checked(package={"budgets": ["energy: <= 1J"]})


def test_nothing_was_trained_or_written(tmp_path, tiny_build, tiny_data):
    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(tmp_path / f"{name}.npz", x=part.x, y=part.y)
    data = {"name": "arrays", "train": "train.npz", "test": "test.npz"}
    bad = recipe(tmp_path, data=data, compress=INT8, export=[*ONNX, {"onnx_fp16": {}}])
    with pytest.raises(RecipeError):
        run(bad, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_no_exported_file_can_bring_is_refused(checked):
    both = {"bench": {"runtimes": ["onnxruntime_cpu", "ort_format"]}, "export": [*ORT, *ONNX]}
    alone = {"bench": {"runtimes": ["ort_format"]}, "export": ORT}
    with pytest.raises(RecipeError, match=r"emit: `triton` is for .* of `ort_format`") as caught:
        checked(package={"emit": ["triton"]}, **alone)
    assert "export to onnx" in caught.value.hint
    checked(package={"emit": ["triton"]}, **both)
    checked(package={"emit": ["c_header", "systemd"]}, **alone)
