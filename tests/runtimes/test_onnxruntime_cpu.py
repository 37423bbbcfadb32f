from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from kdeploy.errors import ModelError
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.onnxruntime_cpu import OnnxruntimeCpu
from kdeploy.runtimes.run import open_runtime


@pytest.fixture
def opened(float_file):
    runtime = OnnxruntimeCpu(threads=1)
    runtime.open(float_file)
    yield runtime
    runtime.close()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_computes_what_the_onnx_reference_computes(opened, float_file, batch_size):
    batch = np.random.default_rng(2).normal(size=(batch_size, 3, 8, 8)).astype(np.float32)
    expected = ReferenceEvaluator(onnx.load(float_file)).run(None, {"x": batch})[0]
    np.testing.assert_allclose(first(opened.infer(batch)), expected, rtol=1e-4, atol=1e-5)


def test_a_float_file_has_eligible_operators_and_no_integer_one(opened):
    proof = opened.proof_of_use()
    assert (proof.provider, proof.is_quantized) == ("CPUExecutionProvider", False)
    assert (proof.integer, proof.eligible) == (0, 3)
    assert proof.settings["intra_op_num_threads"] == 1


def test_every_eligible_operator_of_a_good_int8_file_is_integer(int8_file):
    runtime = OnnxruntimeCpu(threads=1)
    runtime.open(int8_file)
    proof = runtime.proof_of_use()
    assert proof.is_quantized
    assert proof.integer_kernels == 1.0
    assert proof.operators["QLinearConv"] == 2


def test_an_int8_file_that_runs_in_float_is_told_from_one_that_does_not(weights_only_file):
    runtime = OnnxruntimeCpu(threads=1)
    runtime.open(weights_only_file)
    proof = runtime.proof_of_use()
    assert proof.is_quantized
    assert (proof.integer, proof.eligible) == (0, 3)


@pytest.mark.parametrize("broken", ["truncated", "text", "empty", "unknown"], indirect=True)
def test_a_broken_file_is_one_error_with_a_hint(broken):
    with pytest.raises(ModelError, match=broken.name) as caught:
        OnnxruntimeCpu(threads=1).open(broken)
    assert caught.value.hint
    assert ("Frobnicate" in caught.value.message) == (broken.stem == "unknown")


@pytest.mark.parametrize("shape", [(1, 3, 8), (1, 4, 8, 8)])
def test_a_wrong_shape_names_both_shapes(opened, shape):
    with pytest.raises(ModelError) as caught:
        first(opened.infer(np.zeros(shape, np.float32)))
    assert str(list(shape)) in caught.value.message
    assert "['batch', 3, 8, 8]" in caught.value.message


def of_input_type(float_file, path, element_type):
    """Write the file with a cast from another type in front."""
    model = onnx.load(float_file)
    model.graph.input[0].name = "raw"
    model.graph.input[0].type.tensor_type.elem_type = element_type
    cast = onnx.helper.make_node("Cast", ["raw"], ["x"], to=onnx.TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    onnx.save(model, path)
    return path


def test_an_input_that_holds_no_numbers_is_refused(tmp_path):
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["text"], ["same"])],
        "text",
        [value("text", onnx.TensorProto.STRING, ["n"])],
        [value("same", onnx.TensorProto.STRING, ["n"])],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.save(model, tmp_path / "text.onnx")
    with pytest.raises(ModelError, match="`text`, which is no tensor of numbers"):
        OnnxruntimeCpu(threads=1).open(tmp_path / "text.onnx")


@pytest.fixture
def several(tmp_path):
    """Return a file of two inputs, one of them whole numbers, and two outputs."""
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    real, whole = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    graph = onnx.helper.make_graph(
        [
            node("Cast", ["ids"], ["real"], to=real),
            node("Add", ["x", "real"], ["sum"]),
            node("Neg", ["sum"], ["negative"]),
        ],
        "several",
        [value("x", real, ["batch", 3]), value("ids", whole, ["batch", 3])],
        [value("sum", real, ["batch", 3]), value("negative", real, ["batch", 3])],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.save(model, tmp_path / "several.onnx")
    return tmp_path / "several.onnx"


@pytest.mark.parametrize("name", ["onnxruntime_cpu", "openvino"])
def test_several_inputs_and_outputs_go_by_name(several, name):
    runtime = open_runtime(name, several, threads=1)
    assert [str(info) for info in runtime.inputs][1].endswith(",3:int64")
    given = {"ids": np.array([[1, 2, 3]]), "x": np.ones((1, 3), np.float32)}
    answer = runtime.infer(given)
    assert list(answer) == ["sum", "negative"]
    np.testing.assert_array_equal(answer["sum"], [[2, 3, 4]])
    np.testing.assert_array_equal(answer["negative"], -answer["sum"])


@pytest.mark.parametrize("given", [np.ones((1, 3), np.float32), {"x": np.ones((1, 3))}])
def test_an_array_for_each_input_is_asked_for(several, given):
    runtime = open_runtime("onnxruntime_cpu", several, threads=1)
    with pytest.raises(ModelError, match="takes `x`, `ids`, and was given") as caught:
        runtime.infer(given)
    assert "by its name" in caught.value.hint


def test_integers_are_taken(float_file, tmp_path, opened):
    path = of_input_type(float_file, tmp_path / "integers.onnx", onnx.TensorProto.INT64)
    runtime = OnnxruntimeCpu(threads=1)
    runtime.open(path)
    batch = np.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8) % 5
    np.testing.assert_allclose(
        first(runtime.infer(batch)), first(opened.infer(batch.astype(np.float32)))
    )


def test_needs_no_torch(float_file):
    code = (
        "import sys, numpy as np; from pathlib import Path;"
        "from kdeploy.runtimes.run import open_runtime;"
        f"r = open_runtime('onnxruntime_cpu', Path({str(float_file)!r}), threads=1);"
        "r.infer(np.zeros((1, 3, 8, 8), np.float32)); print('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "False", answer.stderr
