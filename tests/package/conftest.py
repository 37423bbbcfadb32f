"""A tiny real ONNX file (conv, relu, pool, gemm), its golden data, and bundles of it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.data.contract import Preprocessing
from kdeploy.gate import parse_gates
from kdeploy.package.checksums import write_sums
from kdeploy.package.folding import Folding, Surroundings, folded
from kdeploy.package.kinds import write_runner
from kdeploy.package.run import golden_of, package
from kdeploy.store.artifact import file_sha256

CLASSES = ("circle", "square", "triangle")
SHAPE = (1, 8, 8)
PREPROCESSING = Preprocessing(
    shape=SHAPE,
    scale=1 / 255,
    mean=(0.4,),
    std=(0.3,),
    resize="bilinear",
    background=(255, 255, 255),
    classes=CLASSES,
)


def _onnx_model(*, batch="batch", classes=3, softmax=False, shape=SHAPE, seed=0):
    """Return conv + relu + global average pool + gemm on (batch, channels, 8, 8)."""
    rng = np.random.default_rng(seed)
    kernel = (4, shape[0], *(3 for _ in shape[1:]))
    shapes = {"w": kernel, "b": (4,), "fc": (classes, 4), "fb": (classes,)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    last = "gemm" if softmax else "logits"
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["c"], pads=[1, 1] * len(shape[1:])),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc", "fb"], [last], transB=1),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["gemm"], ["logits"], axis=1))
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *inner])
        for name, inner in (("image", shape), ("logits", (classes,)))
    ]
    graph = helper.make_graph(nodes, "tiny", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="session")
def onnx_model():
    return _onnx_model


def _run_onnx(path, inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x[None]})[0] for x in inputs])


@pytest.fixture(scope="session")
def run_onnx():
    return _run_onnx


def _artifact_manifest(preprocessing=PREPROCESSING):
    step = {"id": "a" * 12, "label": "teacher", "stage": "teacher", "technique": "fit"}
    return {
        "id": "b" * 12,
        "label": "tiny",
        "stage": "export",
        "technique": "onnx",
        "parameters": {"profile": "cpu"},
        "created": "2025-01-02T03:04:05+00:00",
        "machine": "0123456789ab",
        "facts": {"parameters": 55, "macs": 2316, "size": 1},
        "data": {"preprocessing": preprocessing.to_dict(), "licence": "CC-BY-4.0"},
        "lineage": [step, {**step, "id": "b" * 12, "label": "tiny", "stage": "export"}],
    }


@pytest.fixture(scope="session")
def artifact_manifest():
    return _artifact_manifest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Return the file, stored items, its preprocessed golden inputs and their outputs."""
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    onnx.save(_onnx_model(), path)
    stored = np.random.default_rng(1).integers(0, 256, (6, *SHAPE), dtype=np.uint8)
    inputs = PREPROCESSING.apply(stored)
    return SimpleNamespace(
        path=path,
        stored=stored,
        inputs=inputs,
        outputs=_run_onnx(path, inputs),
        preprocessing=PREPROCESSING,
    )


@pytest.fixture(scope="session")
def make_bundle(tiny):
    """Return a function that packages the tiny file."""

    def make(out, *, budgets=(), accuracy=None, **changes):
        return package(
            changes.pop("file", tiny.path),
            out,
            manifest=changes.pop("manifest", None) or _artifact_manifest(),
            golden=changes.pop("golden", (tiny.inputs, tiny.outputs)),
            accuracy={"accuracy.top1": 0.9} if accuracy is None else accuracy,
            budgets=parse_gates(budgets),
            **changes,
        )

    return make


@pytest.fixture(scope="session")
def int8(tiny, tmp_path_factory):
    """Return the tiny file in INT8."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Items(CalibrationDataReader):
        def __init__(self):
            self.items = iter([{"image": tiny.inputs}])

        def get_next(self):
            return next(self.items, None)

    path = tmp_path_factory.mktemp("int8") / "int8.onnx"
    quantize_static(tiny.path, path, Items())
    return path


@pytest.fixture(scope="session", params=["float", "int8"])
def folded_bundle(request, tiny, int8, make_bundle, tmp_path_factory):
    """Return the bundle of a file that prepares its pictures itself, and of the file before."""
    folder = tmp_path_factory.mktemp("folded")
    file = tiny.path if request.param == "float" else int8
    around = Surroundings(form=tiny.preprocessing, task={}, items=tiny.stored)
    made = folded(file, folder / "folded.onnx", around, Folding())
    return SimpleNamespace(
        bundle=make_bundle(
            folder / "bundle", file=made.path, golden=golden_of(made.path, made.pixels)
        ),
        plain=make_bundle(folder / "plain", file=file, golden=golden_of(file, tiny.inputs)),
        file=file,
        made=made,
    )


@pytest.fixture(scope="session")
def pristine(make_bundle, tmp_path_factory):
    """Return a bundle that tests only read."""
    return make_bundle(tmp_path_factory.mktemp("pristine") / "bundle")


@pytest.fixture
def bundle(pristine, tmp_path):
    """Return a bundle of one's own, to damage."""
    return shutil.copytree(pristine, tmp_path / "bundle")


@pytest.fixture(scope="session")
def run_runner():
    """Return a function that runs the bundle's own runner as a device would."""

    def run(bundle, *arguments, cwd=None, environment=None):
        return subprocess.run(
            [sys.executable, str(bundle / "runner/python/run.py"), *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def runner(monkeypatch, tmp_path_factory):
    """Return the runner as a module whose clock stops at the minimum of runs."""
    program = write_runner(tmp_path_factory.mktemp("runner"), "onnx")
    spec = importlib.util.spec_from_file_location("bundle_runner", program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # In this process, where a test can change it: no limits, and the clock below.
    monkeypatch.setattr(module, "_limited", lambda given, *_: module._worked(given))
    monkeypatch.setattr(module, "np", np)
    monkeypatch.setattr(module, "WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(module, "MINIMUM_SECONDS", 0.0)
    return module


@pytest.fixture
def golden_checks(runner):
    """Return a function that judges outputs of the items that a bundle holds."""

    def judge(bundle, outputs):
        manifest = json.loads((bundle / "manifest.json").read_text())
        name = manifest["outputs"][0]["name"]
        answers = [{name: row[None]} for row in outputs]
        told = runner._part("golden").checks(bundle, manifest, answers)
        return [runner._check(*one) for one in told]

    return judge


FILES = (
    "LICENSES/THIRD_PARTY.md",
    "LICENSES/data.txt",
    "LICENSES/runner.txt",
    "README.md",
    "SHA256SUMS",
    "golden/inputs.npz",
    "golden/outputs.npz",
    "golden/tolerance.json",
    "manifest.json",
    "model.onnx",
    "requirements.txt",
    "runner/cpp/CMakeLists.txt",
    "runner/cpp/main.cpp",
    "runner/python/given.py",
    "runner/python/golden.py",
    "runner/python/limits.py",
    "runner/python/reading.py",
    "runner/python/rules.py",
    "runner/python/run.py",
    "runner/python/schema.py",
    "runner/python/session.py",
    "runner/python/texts.py",
)


@pytest.fixture(params=FILES)
def each_file(request):
    """Return the name of a file of a bundle, one a test: all but most of the C++ sources."""
    return request.param


def _signed_again(bundle, name, change):
    """Change a JSON file of a bundle, and let every checksum and size fit what is there."""
    path, model, manifest = bundle / name, bundle / "model.onnx", bundle / "manifest.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    if name != "manifest.json":
        fields = json.loads(manifest.read_text())
        size = model.stat().st_size
        fields["model"].update(sha256=file_sha256(model), size=size)
        fields["recorded"]["size"] = float(size)
        manifest.write_text(json.dumps(fields))
    write_sums(bundle)


@pytest.fixture(scope="session")
def signed_again():
    return _signed_again


@pytest.fixture(scope="session")
def flip_byte():
    def flip(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))

    return flip
