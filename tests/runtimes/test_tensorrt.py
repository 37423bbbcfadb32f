from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from kdeploy.errors import ModelError
from kdeploy.runtimes.contract import DeviceTimed, first
from kdeploy.runtimes.run import named, open_runtime
from kdeploy.runtimes.tensorrt import Tensorrt
from kdeploy.tensorrt.api import Device
from kdeploy.tensorrt.sidecar import Sidecar
from tests.tiny import fake_cuda, fake_tensorrt, fake_tensorrt_types

X = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def api(monkeypatch):
    return fake_tensorrt.install(monkeypatch)


def plan_of(file, *, version="10.16.1.11", host_code=False, largest=8):
    profile = {"x": [[1, 3, 8, 8], [2, 3, 8, 8], [largest, 3, 8, 8]]}
    told = {"version": version, "profile": profile, "host_code": host_code}
    head = fake_tensorrt_types.MAGIC + json.dumps(told).encode() + b"\n"
    return head + onnx.load(file).SerializeToString()


@pytest.fixture
def engine(float_file, tmp_path):
    """Return a function that writes an engine, with or without the file beside it."""

    def write(*, described=True, parameters=None, sparse_eligible=0, version="10.16.1.11", **rest):
        path = tmp_path / "model.engine"
        path.write_bytes(plan_of(float_file, version=version, **rest))
        if described:
            sidecar = Sidecar(
                tensorrt=version,
                gpu="NVIDIA H200",
                compute_capability="9.0",
                driver=None,
                engine_bytes=path.stat().st_size,
                onnx_sha256="",
                parameters=parameters or {},
                sparse_eligible=sparse_eligible,
            )
            sidecar.write(path)
        return path

    return write


@pytest.fixture
def expected(float_file):
    session = onnxruntime.InferenceSession(str(float_file), providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
@pytest.mark.parametrize("module", ["tensorrt", "tensorrt_dispatch", "tensorrt_lean"])
def test_answers_at_each_batch_size_in_each_module(monkeypatch, engine, expected, version, module):
    fake_tensorrt.install(monkeypatch, version, name=module)
    opened = open_runtime("tensorrt", engine(version=version))
    for count in (3, 1, 3):
        np.testing.assert_allclose(first(opened.infer(X[:count])), expected(X[:count]), rtol=1e-5)
    assert opened.proof_of_use().provider == f"{module} {version}"
    opened.close()


def test_says_what_the_gpu_needed_apart_from_the_copies(api, engine):
    opened = open_runtime("tensorrt", engine())
    first(opened.infer(X))
    assert isinstance(opened, DeviceTimed)
    assert opened.device_seconds() == fake_cuda.SECONDS


def test_a_cuda_graph_is_captured_once_a_batch_size_and_replayed(api, engine, expected):
    opened = open_runtime("tensorrt:cuda_graph=true", engine())
    for x in (X, X + 1, X[:2]):
        np.testing.assert_allclose(first(opened.infer(x)), expected(x), rtol=1e-5)
    assert api.seen.enqueued == 2  # the two warm-ups before capturing
    assert opened.proof_of_use().settings == {"cuda_graph": True}


def test_launches_that_cannot_be_recorded_name_the_option(api, engine, monkeypatch):
    def refuse(launch):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(api.stream, "captured", refuse)
    opened = open_runtime("tensorrt:cuda_graph=true", engine())
    with pytest.raises(ModelError, match="not permitted") as caught:
        first(opened.infer(X))
    assert "cuda_graph=false" in caught.value.hint


def test_a_batch_outside_the_profile_is_told_what_fits(api, engine):
    opened = open_runtime("tensorrt", engine(largest=2))
    with pytest.raises(ModelError, match=r"shape \[3, 3, 8, 8\].*\[1, 3, 8, 8\] to \[2, 3, 8, 8\]"):
        first(opened.infer(X))
    assert first(opened.infer(X[:2])).shape == (2, 5)


def test_a_file_of_one_batch_size_tells_that_one(api, float_file, tmp_path):
    model = onnx.load(float_file)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "fixed.onnx")
    head = plan_of(float_file).split(b"\n")[0] + b"\n"
    told = {"version": "10.16.1.11", "profile": {}, "host_code": False}
    path = tmp_path / "fixed.engine"
    model = (tmp_path / "fixed.onnx").read_bytes()
    path.write_bytes(head + json.dumps(told).encode() + b"\n" + model)
    opened = open_runtime("tensorrt", path)
    assert first(opened.infer(X[:2])).shape == (2, 5)
    with pytest.raises(ModelError, match=r"it takes \[2, 3, 8, 8\]"):
        first(opened.infer(X))


def test_shapes_that_tensorrt_cannot_infer_are_refused(api, engine):
    api.faults.infer_shapes = True
    with pytest.raises(ModelError, match=r"cannot run an input of shape \[3, 3, 8, 8\]"):
        first(open_runtime("tensorrt", engine()).infer(X))


def test_token_ids_for_a_model_of_fractions_are_refused(api, engine):
    with pytest.raises(
        ModelError, match=r"takes torch.float32 as `x`, and the data are torch.int64"
    ):
        first(open_runtime("tensorrt", engine()).infer(X.astype(np.int64)))


def test_an_output_whose_size_depends_on_values_is_refused(api, engine):
    api.faults.output_shape = (-1, 4)
    with pytest.raises(ModelError, match="depends on its values"):
        first(open_runtime("tensorrt", engine()).infer(X))


def test_a_truncated_engine_is_refused_with_both_sizes(api, engine):
    path = engine()
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(ModelError, match=f"has 100 bytes and was written with {len(whole)}"):
        open_runtime("tensorrt", path)


def test_without_a_description_tensorrt_says_why_it_cannot_open_an_engine(api, engine):
    path = engine(described=False)
    path.write_bytes(path.read_bytes()[:15])
    with pytest.raises(ModelError, match="the plan is corrupt") as caught:
        open_runtime("tensorrt", path)
    assert "build it again" in caught.value.hint


def test_an_engine_of_another_version_is_refused_before_tensorrt_sees_it(api, engine):
    path = engine(version="10.13.2.6")
    with pytest.raises(ModelError, match=r"built by TensorRT 10\.13\.2\.6, and here is 10\.16"):
        open_runtime("tensorrt", path)
    assert api.log is None


def test_an_engine_for_another_gpu_is_refused(monkeypatch, engine):
    fake_tensorrt.install(monkeypatch, capability="8.6")
    with pytest.raises(ModelError, match=r"compute capability 9\.0 .* here is 8\.6"):
        open_runtime("tensorrt", engine())


def test_host_code_runs_only_in_engines_that_are_described_as_version_compatible(api, engine):
    compatible = {"version_compatible": True}
    open_runtime("tensorrt", engine(host_code=True, parameters=compatible))
    with pytest.raises(ModelError, match="HostCodeAllowed"):
        open_runtime("tensorrt", engine(host_code=True))


@pytest.mark.parametrize(
    ("parameters", "version", "capability", "opens"),
    [
        ({}, "10.16.1.11", "9.0", True),
        ({}, "10.16.1.12", "9.0", False),
        ({"version_compatible": True}, "11.4.0.106", "9.0", True),
        ({"version_compatible": True}, "10.13.0.1", "9.0", False),
        ({"hardware_compatibility": "ampere_plus"}, "10.16.1.11", "12.0", True),
        ({"hardware_compatibility": "ampere_plus"}, "10.16.1.11", "7.5", False),
        ({"hardware_compatibility": "same_compute_capability"}, "10.16.1.11", "8.9", False),
    ],
)
def test_compatible_engines_open_where_they_may(engine, parameters, version, capability, opens):
    path = engine(parameters=parameters)
    here = Device(gpu="another", compute_capability=capability, driver=None)
    sidecar = Sidecar.beside(path)
    if opens:
        sidecar.check(path, version=version, device=here)
    else:
        with pytest.raises(ModelError, match=r"kdeploy export tensorrt|built"):
            sidecar.check(path, version=version, device=here)


def test_a_description_that_is_none_is_named(engine):
    path = engine()
    path.with_suffix(".json").write_text('{"format": "another program\'s"}')
    with pytest.raises(ModelError, match=r"model\.json"):
        Sidecar.beside(path)


def test_too_little_memory_tells_what_tensorrt_said(api, engine):
    api.faults.context = "out of memory"
    with pytest.raises(ModelError, match=r"no room to run.*out of memory"):
        open_runtime("tensorrt", engine())


def test_a_launch_that_fails_tells_what_tensorrt_said(api, engine):
    opened = open_runtime("tensorrt", engine())
    api.faults.enqueue = "illegal memory access"
    with pytest.raises(ModelError, match=r"could not run .*illegal memory access"):
        first(opened.infer(X))


def test_a_lean_runtime_proves_nothing_and_says_who_ran(monkeypatch, engine):
    fake_tensorrt.install(monkeypatch, name="tensorrt_lean")
    proof = open_runtime("tensorrt", engine(sparse_eligible=2)).proof_of_use()
    assert proof.provider.startswith("tensorrt_lean")
    assert (proof.eligible, proof.layers, proof.sparse, proof.sparse_eligible) == (0, [], 0, 0)


def test_the_inspector_is_asked_what_ran(api, engine):
    api.layers = [{"Name": "c", "LayerType": "conv", "Inputs": [{"Format/Datatype": "Int8 NC32"}]}]
    proof = open_runtime("tensorrt", engine()).proof_of_use()
    assert (proof.integer, proof.eligible) == (1, 1)


def test_the_graph_is_an_option_of_the_runtime():
    _, options = named("tensorrt:cuda_graph=true")
    assert options == {"cuda_graph": True}


def test_without_a_driver_it_says_so_and_touches_nothing(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert "NVIDIA driver" in (Tensorrt.unavailable() or "")
