from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from kdeploy.errors import ModelError, NotCalibrated, OrderError, UnknownName
from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch
from kdeploy.quantization.onnx_static import PROFILES, check_integers, quantize_file
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.onnxruntime_cpu import OnnxruntimeCpu
from tests.quantization.conftest import built
from tests.tiny.weight_bits import is_reduced

NUM_CONVOLUTIONS = {"concatenating": 4, "squeezing": 5, "signal": 2}


@pytest.fixture(scope="module")
def float_file(tmp_path_factory):
    """Return a function that exports a network by name once, and gives path, network, inputs."""

    @cache
    def make(name):
        model, x = built(name)
        path = tmp_path_factory.mktemp(name) / "float.onnx"
        onnx_from_torch(model, x[:2], path)
        return path, model, x

    return make


def quantized(source, x, profile="cpu", observer="min_max", **options):
    target = source.with_name(f"{profile}.onnx")
    options = {"reduce_range": is_reduced(profile), **options}
    quantize_file(source, target, [x[:8], x[8:]], profile=profile, observer=observer, **options)
    return target


def opened(path):
    session = OnnxruntimeCpu(threads=1)
    session.open(path)
    return session


def nodes(path):
    return onnx.load(path).graph.node


@pytest.mark.parametrize("name", NUM_CONVOLUTIONS)
def test_every_convolution_of_the_cpu_profile_runs_on_integers(float_file, name):
    source, model, x = float_file(name)
    session = opened(quantized(source, x))
    operators = session.proof_of_use().operators
    assert operators["QLinearConv"] == NUM_CONVOLUTIONS[name]
    assert not operators.keys() & {"Conv", "FusedConv", "Gemm", "MatMul"}
    expected = model(x).detach().numpy()
    assert 0 < np.abs(first(session.infer(x.numpy())) - expected).mean() < 0.02 * expected.std()


def test_files_for_tensorrt_have_zero_points_of_zero_and_float_biases(float_file):
    source, _, x = float_file("concatenating")
    path = quantized(source, x, "tensorrt")
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    pairs = [n for n in nodes(path) if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zero_points = [stored[n.input[2]] for n in pairs]
    assert all(z.dtype == np.int8 and not z.any() for z in zero_points)
    assert not any(t.dtype == np.int32 for t in stored.values())
    made = {o: n.op_type for n in nodes(path) for o in n.output}
    for node in nodes(path):
        if node.op_type in ("Conv", "Gemm"):
            assert [made[name] for name in node.input[:2]] == ["DequantizeLinear"] * 2
    read = Counter(name for n in nodes(path) for name in n.input)
    assert all(read[n.output[0]] == 1 for n in pairs)


def test_files_for_arm_have_signed_codes_that_absorb_a_relu(float_file):
    source, _, x = float_file("concatenating")
    path = quantized(source, x, "arm")
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    zero_points = [stored[n.input[2]] for n in nodes(path) if n.op_type == "QuantizeLinear"]
    assert {z.dtype for z in zero_points} == {np.dtype(np.int8)}
    assert -128 in {int(z) for z in zero_points}
    assert "Relu" not in {n.op_type for n in nodes(path)}


def test_seven_bit_weights_are_an_option(float_file):
    source, _, x = float_file("signal")
    for reduce_range, most in ((False, 127), (True, 64)):
        path = quantized(source, x, reduce_range=reduce_range)
        codes = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
        assert max(np.abs(c.astype(int)).max() for c in codes if c.dtype == np.int8) == most


def test_the_observer_chooses_the_ranges(float_file):
    source, _, x = float_file("signal")
    x = x.clone()
    x[0, 0, 0] = 1e3  # an outlier that the squared error gives up
    scales = []
    for observer in ("min_max", "mse"):
        path = quantized(source, x, observer=observer)
        stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        (first,) = [n for n in nodes(path) if n.input[0] == "input"]
        scales.append(float(stored[first.input[1]]))
    assert scales[0] > scales[1]


def old_file(path, opset=9, batch=1):
    """Write a convolution as old exporters do: weights among the inputs, one batch size."""
    weight = np.random.default_rng(0).normal(0, 1, (4, 3, 3, 3)).astype(np.float32)
    shapes = {"x": (batch, 3, 6, 6), "w": weight.shape, "y": (batch, 4, 4, 4)}
    values = {k: helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in shapes.items()}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
        "old",
        [values["x"], values["w"]],
        [values["y"]],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=3), path)
    return path


def test_old_files_of_one_batch_size_are_upgraded(tmp_path):
    x = torch.rand(10, 3, 6, 6)
    path = quantized(old_file(tmp_path / "old.onnx"), x)
    assert onnx.load(path).opset_import[0].version == 13
    assert opened(path).proof_of_use().operators["QLinearConv"] == 1


def test_what_is_quantized_already_is_refused(float_file):
    source, _, x = float_file("signal")
    path = quantized(source, x)
    with pytest.raises(OrderError, match="quantized already"):
        quantize_file(path, path, [x], profile="cpu", observer="mse")
    check_integers(path)
    with pytest.raises(AssertionError, match="no weight"):
        check_integers(source)


def test_a_file_without_products_is_refused(tmp_path):
    source = old_file(tmp_path / "old.onnx")
    model = onnx.load(source)
    model.graph.node[0].CopyFrom(helper.make_node("Identity", ["x"], ["c"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, (1, 3, 6, 6)))
    onnx.save(model, source)
    with pytest.raises(ModelError, match="nothing to quantize"):
        quantized(source, torch.rand(9, 3, 6, 6))


def test_values_that_are_not_finite_and_missing_data_are_refused(float_file):
    source, _, x = float_file("signal")
    with pytest.raises(ModelError, match="not finite"):
        quantized(source, x * torch.nan)
    with pytest.raises(NotCalibrated, match="no data"):
        quantize_file(source, source, [], profile="cpu", observer="mse")
    with pytest.raises(UnknownName):
        quantized(source, x, profile="gpu")
    assert set(PROFILES) == {"cpu", "arm", "tensorrt"}
