"""One quantized model in two encodings: the same steps, other codes, integer kernels in both."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from kdeploy.compress.compressors.int8_ptq import int8_ptq
from kdeploy.compress.contract import CompressContext
from kdeploy.errors import ModelError
from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch
from kdeploy.onnx_graph.encodings import SCALES, encoding_pass, profile_of, without_rounding
from kdeploy.onnx_graph.facts import properties
from kdeploy.onnx_graph.graph import maker
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.onnx_graph.passes import rewritten
from kdeploy.onnx_graph.quantizers import quantizers
from kdeploy.quantization.onnx_static import quantize_file
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.run import open_runtime
from tests.export.conftest import built, noise


class Residual(nn.Module):
    """An addition of two convolutions."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.a(x))
        x = torch.relu(self.c(torch.relu(self.b(x))) + self.d(x))
        return self.head(x.mean((2, 3)))


class Depthwise(nn.Module):
    """Convolutions of single channels behind ReLU6 that cut, and a pool."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.c, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x):
        x = functional.relu6(self.a(x) * 4)
        x = x + self.c(functional.relu6(self.b(x) * 4))
        return self.head(functional.max_pool2d(functional.relu6(x), 2).mean((2, 3)))


class Bottlenecks(nn.Module):
    """Two linear bottlenecks, the second added to the first, a pool and a convolution as head."""

    def __init__(self):
        super().__init__()
        self.first, self.second = self.bottleneck(3), self.bottleneck(8)
        self.pool, self.head = nn.AvgPool2d(12), nn.Conv2d(8, 5, 1)

    @staticmethod
    def bottleneck(inputs):
        expand, middle = nn.Conv2d(inputs, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        return nn.Sequential(expand, nn.ReLU6(), middle, nn.ReLU6(), nn.Conv2d(16, 8, 1))

    def forward(self, x):
        x = self.first(x)
        return self.head(self.pool(functional.relu6(x + self.second(x)))).flatten(1)


def found_in(program):
    return quantizers(ir.from_proto(program).graph)


def operators(program):
    return sorted(node.op_type for node in program.graph.node)


BUILT = {"residual": Residual, "depthwise": Depthwise, "bottlenecks": Bottlenecks}
NAMES = ("residual", "squeezing", "depthwise")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a function that gives the file of a network in an encoding: (from torch, to)."""
    folder = tmp_path_factory.mktemp("encodings")

    @cache
    def quantized(name):
        torch.manual_seed(0)
        model = BUILT[name]().eval() if name in BUILT else built(name)[0]
        return int8_ptq(model, CompressContext(data=noise((3, 12, 12))))

    @cache
    def file(name, *profiles):
        path = folder / f"{name}.{'.'.join(profiles)}.onnx"
        if len(profiles) == 1:
            onnx_from_torch(quantized(name), quantized(name).example, path, profile=profiles[0])
            return path
        model = onnx.load(file(name, *profiles[:-1]))
        model = rewritten(model, encoding_pass(profiles[-1]))
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
        return path

    return file


def run(path, runtime):
    """Return the outputs for some noise, and the proof."""
    opened = open_runtime(runtime, path, threads=1)
    try:
        return first(opened.infer(noise((3, 12, 12)).test.x)), opened.proof_of_use()
    finally:
        opened.close()


def step(outputs):
    """Return the step that int8 codes of the outputs would have."""
    return np.abs(outputs).max() / 127


@pytest.mark.parametrize(
    ("name", "first", "other"),
    [*((name, "tensorrt", "cpu") for name in NAMES), ("residual", "cpu", "tensorrt")],
)
def test_the_encodings_differ_by_at_most_two_steps_of_the_output(files, name, first, other):
    expected, _ = run(files(name, first), "onnxruntime_cpu")
    found, _ = run(files(name, first, other), "onnxruntime_cpu")
    assert np.abs(found - expected).max() <= 2 * step(expected)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_made_for_tensorrt_runs_on_integers_everywhere_when_encoded_for_the_cpu(
    files, name
):
    # ONNX Runtime leaves most of the int8 encoding in float: that is what `cpu` is for.
    _, before = run(files(name, "tensorrt"), "onnxruntime_cpu")
    assert before.integer < before.eligible
    assert run(files(name, "tensorrt"), "openvino")[1].integer_kernels == 1.0
    for runtime in ("onnxruntime_cpu", "openvino"):
        assert run(files(name, "tensorrt", "cpu"), runtime)[1].integer_kernels == 1.0


def test_openvino_runs_bottlenecks_as_integer_convolutions_with_nothing_between(files):
    layers = run(files("bottlenecks", "cpu"), "openvino")[1].layers
    # Reshapes in float are of constants, the biases: done once, at load.
    executed = [(layer["operator"], layer["precision"]) for layer in layers]
    executed = [layer for layer in executed if layer != ("Reshape", "f32")]
    convolution = ("Convolution", "u8")
    assert executed[:2] == [("FakeQuantize", "f32"), ("Reorder", "u8")]
    assert executed[2:10] == [*[convolution] * 6, ("Pooling", "u8"), convolution]


def test_what_was_made_for_the_cpu_runs_on_integers_when_encoded_for_tensorrt(files):
    # OpenVINO stands for TensorRT here: it runs either encoding on integers.
    assert run(files("residual", "cpu", "tensorrt"), "openvino")[1].integer_kernels == 1.0


@pytest.mark.parametrize(
    ("profiles", "codes"),
    [
        (("tensorrt", "cpu"), {("uint8", 0), ("uint8", 128)}),
        (("tensorrt", "arm"), {("int8", -128), ("int8", 0)}),
        (("cpu", "tensorrt"), {("int8", 0)}),
    ],
)
def test_the_codes_are_those_of_the_encoding(files, profiles, codes):
    model = onnx.load(files("residual", *profiles))
    assert properties(model)["kdeploy.profile"] == profiles[-1]
    assert profile_of(ir.from_proto(model)) == profiles[-1]
    assert {(q.dtype.name, q.zero_point) for q in found_in(model)} == codes


def test_codes_for_arm_are_those_for_the_cpu_moved_by_128(files):
    outputs = [run(files("residual", *p), "openvino")[0] for p in (("cpu",), ("cpu", "arm"))]
    np.testing.assert_allclose(*outputs, atol=step(outputs[0]))


@pytest.mark.parametrize(
    "told", ["no json", "[]", '{"a": "x"}', '{"a": -1}', '{"a": 1e999}', "[" * 999]
)
def test_steps_in_the_metadata_that_anyone_could_write_are_one_error(files, told):
    written = onnx.load(files("residual", "cpu"))
    helper.set_model_props(written, {**properties(written), SCALES: told})
    with pytest.raises(ModelError, match=r"metadata `kdeploy\.steps`"):
        rewritten(written, encoding_pass("tensorrt"))


def test_there_and_back_is_the_same_graph_with_the_same_steps(files):
    for name in NAMES:
        before, after = (
            onnx.load(files(name, *p)) for p in (("tensorrt",), ("tensorrt", "cpu", "tensorrt"))
        )
        assert operators(before) == operators(after)
        steps = [sorted(q.scale for q in found_in(model)) for model in (before, after)]
        np.testing.assert_allclose(*steps, rtol=1e-6)
        stored = onnx.load(files(name, "tensorrt", "cpu", "tensorrt")).graph.initializer
        assert not any(t.data_type == TensorProto.INT32 for t in stored)  # biases are float again


def test_an_addition_keeps_one_side_free_for_tensorrt_to_fuse(files):
    graph = ir.from_proto(onnx.load(files("residual", "cpu", "tensorrt"))).graph
    [add] = [n for n in graph if n.op_type == "Add"]
    makers = sorted(maker(value).op_type for value in add.inputs)
    assert makers == ["Conv", "DequantizeLinear"]


def test_codes_without_a_sign_stand_for_a_relu_that_is_written_out(files):
    cpu, tensorrt = (
        [n.op_type for n in onnx.load(files("residual", *p)).graph.node]
        for p in (("cpu",), ("cpu", "tensorrt"))
    )
    assert "Relu" not in cpu
    assert tensorrt.count("Relu") == 3


def test_what_is_left_without_rounding_is_the_float_network(files):
    model = onnx.load(files("residual", "cpu"))
    model = rewritten(model, without_rounding)
    assert not found_in(model)
    assert [n.op_type for n in model.graph.node].count("Relu") == 3


def test_codes_of_a_clip_end_where_it_does(files):
    model = onnx.load(files("depthwise", "tensorrt", "cpu"))
    clipped = [q for q in found_in(model) if maker(q.value, "Clip")]
    assert clipped
    for quantizer in clipped:
        assert quantizer.is_unsigned
        assert quantizer.highest == pytest.approx(6, rel=0.01) or quantizer.highest < 6


def test_a_file_of_floats_has_no_encoding_and_stays(tmp_path):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    before = model.SerializeToString()
    written = rewritten(model, encoding_pass("tensorrt"))
    assert profile_of(ir.from_proto(written)) is None
    assert model.SerializeToString() == before
    assert written.graph.node == model.graph.node


def test_weights_keep_their_codes(files):
    def codes(path):
        stored = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
        return sorted(t.tobytes() for t in stored if t.dtype == np.int8 and t.size > 20)

    for name in NAMES:
        assert codes(files(name, "tensorrt")) == codes(files(name, "tensorrt", "cpu"))


def test_a_model_of_a_file_is_encoded_by_the_exporter_too(files, tmp_path):
    source = OnnxModel(files("residual", "tensorrt"))
    onnx_from_torch(source, torch.zeros(2, 3, 12, 12), tmp_path / "m.onnx", profile="cpu", opset=21)
    model = onnx.load(tmp_path / "m.onnx")
    assert profile_of(ir.from_proto(model)) == "cpu"
    assert [o.version for o in model.opset_import if not o.domain] == [21]
    assert run(tmp_path / "m.onnx", "onnxruntime_cpu")[1].integer_kernels == 1.0


def test_a_file_that_was_quantized_as_a_file_is_encoded_for_the_cpu_too(tmp_path):
    settings = {"profile": "tensorrt", "observer": "min_max", "reduce_range": True}
    torch.manual_seed(0)
    x = torch.from_numpy(noise((3, 12, 12)).test.x)
    onnx_from_torch(Residual().eval(), x[:2], tmp_path / "float.onnx")
    # Seven bits: on a processor without VNNI sums of eight saturate, in one encoding alone.
    quantize_file(tmp_path / "float.onnx", tmp_path / "m.onnx", [x], **settings)
    model = onnx.load(tmp_path / "m.onnx")
    model = rewritten(model, encoding_pass("cpu"))
    onnx.save(model, tmp_path / "cpu.onnx")
    expected, _ = run(tmp_path / "m.onnx", "onnxruntime_cpu")
    found, proof = run(tmp_path / "cpu.onnx", "onnxruntime_cpu")
    assert proof.integer_kernels == 1.0
    assert np.abs(found - expected).max() <= 2 * step(expected)
