from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static


@pytest.fixture
def dry(_restore_gpu_settings):
    """Let the runtimes for GPUs compute on the processor, with exact kernels."""
    from benchmarks.shared.dry_run import on_the_processor

    with on_the_processor():
        yield


@pytest.fixture
def _restore_gpu_settings():
    import torch

    # Some versions of torch announce with a warning that there is a newer interface.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


@pytest.fixture(scope="session")
def float_file(tmp_path_factory):
    """Two convolutions with ReLU, a global average pool and a linear layer: (b,3,8,8) -> (b,5)."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 3, 3), "w1": (8, 8, 3, 3), "w2": (5, 8), "b2": (5,)}
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.2, s).astype(np.float32), n)
        for n, s in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("GlobalAveragePool", ["r1"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        weights,
    )
    path = tmp_path_factory.mktemp("onnx") / "float.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


class _Reader(CalibrationDataReader):
    def __init__(self):
        rng = np.random.default_rng(1)
        self._batches = iter([{"x": rng.normal(size=(4, 3, 8, 8)).astype(np.float32)}] * 2)

    def get_next(self):
        return next(self._batches, None)


@pytest.fixture(scope="session")
def int8_file(float_file):
    """The same, with Q/DQ pairs in the encoding that ONNX Runtime's CPU kernels like."""
    path = float_file.with_name("int8.onnx")
    quantize_static(
        float_file,
        path,
        _Reader(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return path


@pytest.fixture(scope="session")
def weights_only_file(float_file):
    """Weights stored as int8 and dequantized: nothing can run as an integer."""
    model = onnx.load(float_file)
    for name in ("w0", "w1"):
        weight = next(i for i in model.graph.initializer if i.name == name)
        stored = np.round(numpy_helper.to_array(weight) * 100).astype(np.int8)
        model.graph.initializer.remove(weight)
        model.graph.initializer.append(numpy_helper.from_array(stored, f"{name}_int8"))
        scale = numpy_helper.from_array(np.float32(0.01), f"{name}_scale")
        model.graph.initializer.append(scale)
        node = helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name])
        model.graph.node.insert(0, node)
    path = float_file.with_name("weights_only.onnx")
    onnx.save(model, path)
    return path


@pytest.fixture
def broken(request, float_file, tmp_path):
    """A file that no runtime can open, by kind."""
    path = tmp_path / f"{request.param}.onnx"
    content = {
        "truncated": float_file.read_bytes()[:200],
        "text": b"this is not an ONNX file",
        "empty": b"",
    }
    if request.param in content:
        path.write_bytes(content[request.param])
        return path
    model = onnx.load(float_file)
    model.graph.node[0].op_type = "Frobnicate"
    onnx.save(model, path)
    return path
