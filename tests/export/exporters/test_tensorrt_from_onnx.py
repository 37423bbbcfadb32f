from __future__ import annotations

import contextlib
import json
import logging
import threading

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from kdeploy.errors import ModelError, RecipeError, Unavailable, UnknownName
from kdeploy.export.exporters.tensorrt_from_onnx import tensorrt_from_onnx
from kdeploy.export.run import bound_to, export
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.run import open_runtime
from kdeploy.tensorrt.sidecar import Sidecar
from kdeploy.tensorrt.source import facts_of, in_half
from tests.tiny import fake_tensorrt, fake_tensorrt_build, fake_tensorrt_types


@pytest.fixture
def api(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fake_tensorrt.install(monkeypatch)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a small network for the tiny data, as a file that no exporter had to trace."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (8, 1, 3, 3), "w1": (4, 8)}
    weights = [
        numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["input", "w0"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w1"], ["output"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 12, 12])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 4])],
        weights,
    )
    path = tmp_path_factory.mktemp("source") / "model.onnx"
    opsets = [helper.make_opsetid("", 19)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return OnnxModel(path)


@pytest.fixture
def engine(tmp_path, source, tiny_data):
    """Return a function that exports the tiny network as an engine, through the parity gate."""

    def make(**parameters):
        path = tmp_path / "engines" / "model.engine"
        return export(source, "tensorrt", parameters, tiny_data, path)

    return make


@pytest.fixture
def onnx_file(tmp_path):
    """Return a function that writes a one-layer network of the data's shape as a file."""

    def write(*, operator="Relu", shape=("batch", 1, 12, 12)):
        size = [s if isinstance(s, int) else None for s in shape[1:]]
        out = [shape[0], 144 if None not in size else None]
        graph = helper.make_graph(
            [
                helper.make_node(operator, ["x"], ["r"], name="the_one"),
                helper.make_node("Flatten", ["r"], ["y"]),
            ],
            "one",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        )
        path = tmp_path / "one.onnx"
        opsets = [helper.make_opsetid("", 18)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
        return path

    return write


def built(path, api, **parameters):
    """Build the engine of a file without the parity gate, which only knows tiny networks."""
    target = path.with_suffix(".engine")
    tensorrt_from_onnx(OnnxModel(path), torch.empty(1), target, **parameters)
    return Sidecar.beside(target)


@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
def test_a_model_becomes_an_engine_with_its_description(monkeypatch, tmp_path, engine, version):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    api = fake_tensorrt.install(monkeypatch, version)
    api.layers = [{"Name": "conv", "LayerType": "conv"}]
    result = engine(max_batch=16)
    files = sorted(f.name for f in result.path.parent.iterdir())
    assert files == ["model.engine", "model.json", "model.layers"]
    assert result.max_abs < 1e-5
    sidecar = Sidecar.beside(result.path)
    assert (sidecar.tensorrt, sidecar.compute_capability) == (version, "9.0")
    assert sidecar.engine_bytes == result.path.stat().st_size
    assert sidecar.sparsity == ("(Sparsity) Chose 1 layer(s) using sparse tactics: c",)
    assert json.loads(result.path.with_suffix(".layers").read_text())["Layers"] == api.layers
    assert result.path.read_bytes().startswith(fake_tensorrt_types.MAGIC), (
        "nothing stands before it"
    )


def test_the_description_says_how_to_build_it_again(api, engine, source):
    first = Sidecar.beside(engine(max_batch=4, sparse=True).path)
    again = Sidecar.beside(engine(**first.parameters).path)
    assert again == first
    assert first.onnx_sha256 == source.sha256.numpy().tobytes().hex()


def test_the_builder_is_told_what_was_asked(api, engine):
    engine(
        sparse=True,
        refit=True,
        version_compatible=True,
        hardware_compatibility="ampere_plus",
        workspace_bytes=2**20,
        optimization_level=5,
        max_batch=4,
    )
    config, module = api.seen.config, api.module
    assert config.flags == {
        module.BuilderFlag.SPARSE_WEIGHTS,
        module.BuilderFlag.REFIT,
        module.BuilderFlag.VERSION_COMPATIBLE,
    }
    assert config.pools == {module.MemoryPoolType.WORKSPACE: 2**20}
    assert config.builder_optimization_level == 5
    assert config.hardware_compatibility_level is module.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.profiling_verbosity is module.ProfilingVerbosity.DETAILED
    [profile] = config.profiles
    assert profile.shapes == {"input": [(1, 1, 12, 12), (4, 1, 12, 12), (4, 1, 12, 12)]}


def test_a_quantized_model_comes_in_the_encoding_for_tensorrt(api, int8, tmp_path):
    model, items = int8("signal")
    result = export(model, "tensorrt", {}, items, tmp_path / "signal.engine")
    assert Sidecar.beside(result.path).is_quantized
    built = onnx.load_from_string(result.path.read_bytes().split(b"\n", 2)[2])
    stored = {t.name: numpy_helper.to_array(t) for t in built.graph.initializer}
    points = [n.input[2] for n in built.graph.node if n.op_type == "QuantizeLinear"]
    assert points
    assert all(stored[p].dtype == np.int8 and not stored[p].any() for p in points)


def test_float16_is_in_the_file_that_is_built(api, onnx_file):
    path = onnx_file()
    (folder := path.parent / "half").mkdir()
    half = onnx.load(in_half(path, folder))
    onnx.checker.check_model(half)
    assert [n.op_type for n in half.graph.node] == ["Cast", "Relu", "Flatten", "Cast"]
    built(path, api, fp16=True)
    plan = path.with_suffix(".engine").read_bytes()
    assert b"Cast" in plan


def test_float16_scales_need_a_later_opset(exported, tmp_path):
    older = onnx.load(exported("signal", profile="tensorrt", opset=19))
    older.opset_import[0].version = 18
    onnx.save(older, tmp_path / "older.onnx")
    with pytest.raises(ModelError, match="opset 18") as caught:
        in_half(tmp_path / "older.onnx", tmp_path)
    assert "--opset 19" in caught.value.hint


def test_a_quantized_file_in_float16_has_scales_of_float16(exported, int8, tmp_path):
    source = exported("signal", profile="tensorrt", opset=19)
    half = in_half(source, tmp_path)
    stored = {t.name: t.data_type for t in onnx.load(half).graph.initializer}
    scales = [n.input[1] for n in onnx.load(half).graph.node if n.op_type == "QuantizeLinear"]
    assert {stored[s] for s in scales} == {TensorProto.FLOAT16}
    x = torch.from_numpy(int8("signal")[1].validation.x)
    whole, rounded = OnnxModel(source)(x), OnnxModel(half)(x)
    assert (whole - rounded).abs().max() < 0.2 * whole.std()  # a few steps of the scale


def test_a_file_quantized_for_processors_is_refused(api, exported, tmp_path):
    with pytest.raises(ModelError, match="quantized for processors") as caught:
        tensorrt_from_onnx(OnnxModel(exported("signal")), torch.empty(1), tmp_path / "m.engine")
    assert "--profile tensorrt" in caught.value.hint


def test_all_that_the_parser_refuses_is_told_at_once(api, onnx_file, monkeypatch):
    path = onnx_file()
    source = OnnxModel(path)
    model = onnx.load(path)
    for node in model.graph.node:
        node.op_type = fake_tensorrt_build.UNKNOWN
    onnx.save(model, path)
    monkeypatch.setattr(
        "tests.export.exporters.test_tensorrt_from_onnx.OnnxModel", lambda path: source
    )
    with pytest.raises(ModelError) as caught:
        built(path, api)
    assert caught.value.message.count("UNSUPPORTED_NODE") == 2
    assert "the_one" in caught.value.message


def test_a_build_that_fails_tells_what_tensorrt_said(api, engine, tmp_path):
    api.faults.build = "no implementation for node conv"
    with pytest.raises(ModelError, match=r"cannot build.*no implementation for node conv"):
        engine()
    assert list((tmp_path / "engines").iterdir()) == []


def test_ctrl_c_stops_the_build_and_leaves_nothing(api, engine, tmp_path, monkeypatch):
    cancelled = threading.Event()
    api.faults.at_step = lambda step: cancelled.set() if step == 1 else None

    def interrupted(work):  # the signal itself: test_engine_progress.py
        with contextlib.suppress(ModelError):
            work(cancelled)
        raise KeyboardInterrupt

    monkeypatch.setattr("kdeploy.export.exporters.tensorrt_from_onnx.cancellable", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine()
    assert api.seen.cancelled_at == 1
    assert list((tmp_path / "engines").iterdir()) == []


@pytest.mark.parametrize(("pause", "count"), [(0, fake_tensorrt_build.STEPS), (1e9, 1)])
def test_progress_is_told_but_not_too_often(api, engine, caplog, monkeypatch, pause, count):
    monkeypatch.setattr("kdeploy.tensorrt.progress.PAUSE_SECONDS", pause)
    with caplog.at_level(logging.INFO, logger="kdeploy.progress"):
        engine()
    told = [r.getMessage() for r in caplog.records if r.name == "kdeploy.progress"]
    assert told[0] == f"TensorRT builds: Building 1/{fake_tensorrt_build.STEPS}"
    assert len(told) == count


def test_timings_are_kept_for_this_version_and_gpu(api, engine, tmp_path):
    for _ in range(2):
        engine()
    [cache] = (tmp_path / "cache" / "kdeploy" / "tensorrt").iterdir()
    assert cache.name == "10.16.1.11-NVIDIA-H200-9.0.timings"
    assert cache.read_bytes() == b"++"
    engine(timing_cache=False)
    assert cache.read_bytes() == b"++"


def test_timings_of_another_gpu_are_set_aside(api, engine, tmp_path):
    engine()
    [cache] = (tmp_path / "cache" / "kdeploy" / "tensorrt").iterdir()
    cache.write_bytes(b"other GPU")
    engine()
    assert cache.read_bytes() == b"+"


def test_a_cache_that_cannot_be_written_is_a_warning(api, engine, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert engine().path.is_file()
    assert "cannot keep TensorRT's timings" in caplog.text


def test_a_small_profile_is_held_to_in_the_gate(api, engine):
    assert Sidecar.beside(engine(max_batch=2).path).parameters["best_batch"] == 2


def test_a_file_of_one_batch_size_needs_no_profile(api, onnx_file):
    built(onnx_file(shape=(4, 1, 12, 12)), api)
    assert api.seen.config.profiles == []


def test_other_dynamic_dimensions_take_a_range_by_name(api, onnx_file):
    path = onnx_file(shape=("batch", 1, "height", 12))
    with pytest.raises(ModelError, match="`height`, is dynamic") as caught:
        built(path, api)
    assert "--dimensions" in caught.value.hint
    built(path, api, dimensions={"height": [4, 8, 16]}, max_batch=2)
    [profile] = api.seen.config.profiles
    assert profile.shapes["x"] == [(1, 1, 4, 12), (2, 1, 8, 12), (2, 1, 16, 12)]
    with pytest.raises(UnknownName, match="heigth"):
        built(path, api, dimensions={"heigth": [4, 8, 16]})


@pytest.mark.parametrize(
    "wrong", [{"min_batch": 4, "max_batch": 2}, {"dimensions": {"height": [2, 1]}}]
)
def test_ranges_that_do_not_grow_are_refused(api, engine, wrong):
    with pytest.raises(RecipeError, match="smallest"):
        engine(**wrong)


def test_a_profile_that_tensorrt_refuses_is_an_error(api, engine):
    api.faults.refuses_profile = True
    with pytest.raises(ModelError, match="refuses the shapes"):
        engine()


def test_without_a_gpu_nothing_is_exported_at_all(monkeypatch, engine):
    fake_tensorrt.install(monkeypatch)
    monkeypatch.setattr("kdeploy.tensorrt.api.without_gpu", lambda: "there is none")
    monkeypatch.setattr("kdeploy.export.run._source", None)
    with pytest.raises(Unavailable, match="there is none"):
        engine()


def test_a_lean_runtime_alone_builds_nothing(monkeypatch, onnx_file):
    api = fake_tensorrt.install(monkeypatch, name="tensorrt_lean")
    with pytest.raises(Unavailable, match="`tensorrt` is not installed"):
        built(onnx_file(), api)


def test_an_engine_in_the_store_is_one_of_this_machine_and_these_versions(monkeypatch):
    before = bound_to("tensorrt")
    assert bound_to("onnx") == ""
    monkeypatch.setattr("kdeploy.machine._versions", lambda _: {"tensorrt": "11.4.0.106"})
    assert bound_to("tensorrt") not in ("", before)


def test_two_four_weights_are_counted_along_the_sum(tmp_path):
    kept = np.tile([1, 1, 0, 0], 2).astype(np.float32)  # of every four, two
    weights = {
        "conv": np.broadcast_to(kept[:, None, None], (3, 8, 1, 1)).copy(),
        "matmul": np.broadcast_to(kept[:, None], (8, 5)).copy(),
        "gemm": np.broadcast_to(kept, (5, 8)).copy(),
        "dense": np.ones((5, 8), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"]),
        helper.make_node("MatMul", ["b", "matmul"], ["c"]),
        helper.make_node("Gemm", ["b", "gemm"], ["d"], transB=1),
        helper.make_node("Gemm", ["b", "dense"], ["e"], transB=1),
    ]
    tensors = [numpy_helper.from_array(w, n) for n, w in weights.items()]
    path = tmp_path / "sparse.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [], tensors)), path)
    assert facts_of(path).sparse_eligible == 3


@pytest.mark.gpu
@pytest.mark.tensorrt
@pytest.mark.parametrize("parameters", [{}, {"fp16": True}, {"version_compatible": True}])
@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt:cuda_graph=true"])
def test_on_a_gpu_an_engine_answers_as_its_file(source, tiny_data, tmp_path, parameters, runtime):
    path = tmp_path / "model.engine"
    tensorrt_from_onnx(source, torch.empty(1), path, max_batch=32, **parameters)
    opened = open_runtime(runtime, path)
    for count in (1, 32, 3):
        x = tiny_data.preprocessing.apply(tiny_data.validation.x[:count])
        expected = source(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(first(opened.infer(x)), expected, rtol=1e-2, atol=1e-2)
        assert opened.device_seconds() > 0
    proof = opened.proof_of_use()
    assert proof.eligible > 0
    assert proof.integer == 0
    opened.close()
