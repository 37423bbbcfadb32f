from __future__ import annotations

import platform as platform_module

import numpy as np
import pytest

from kdeploy.errors import ModelError
from kdeploy.export.exporters.ort_format_from_onnx import ort_format_from_onnx
from kdeploy.export.run import export
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.run import open_runtime


def answers(runtime, path, x):
    opened = open_runtime(runtime, path, threads=1)
    try:
        return first(opened.infer(x)), opened.proof_of_use()
    finally:
        opened.close()


@pytest.fixture
def batch():
    return np.random.default_rng(3).normal(0.5, 1, (3, 3, 12, 12)).astype(np.float32)


def test_a_float_file_answers_as_its_onnx_file_bit_for_bit(exported_float, batch, tmp_path):
    ort_format_from_onnx(OnnxModel(exported_float), None, tmp_path / "m.ort")
    expected, _ = answers("onnxruntime_cpu", exported_float, batch)
    found, proof = answers("ort_format", tmp_path / "m.ort", batch)
    np.testing.assert_array_equal(found, expected)
    assert not proof.is_quantized
    assert proof.integer == 0 < proof.eligible


def test_an_int8_file_answers_bit_for_bit_in_the_same_integer_kernels(exported, batch, tmp_path):
    source = exported("concatenating")
    ort_format_from_onnx(OnnxModel(source), None, tmp_path / "m.ort")
    expected, before = answers("onnxruntime_cpu", source, batch)
    found, proof = answers("ort_format", tmp_path / "m.ort", batch)
    np.testing.assert_array_equal(found, expected)
    assert proof.is_quantized
    assert proof.integer == proof.eligible == before.integer
    assert proof.operators == before.operators


def test_only_a_file_for_this_kind_of_processor_has_channels_in_blocks(exported_float, tmp_path):
    reorders = {}
    for platform in ("amd64", "arm"):
        path = tmp_path / f"{platform}.ort"
        ort_format_from_onnx(OnnxModel(exported_float), None, path, target_platform=platform)
        _, proof = answers("ort_format", path, np.zeros((1, 3, 12, 12), np.float32))
        reorders[platform] = sum(n for name, n in proof.operators.items() if "Reorder" in name)
    is_blocked = platform_module.machine() in ("x86_64", "AMD64")
    assert (reorders["amd64"] > 0, reorders["arm"]) == (is_blocked, 0)


def test_a_file_for_arm_passes_the_gate_in_its_own_encoding(int8, tmp_path):
    model, items = int8("concatenating")
    parameters = {"profile": "arm", "target_platform": "arm"}
    result = export(model, "ort_format", parameters, items, tmp_path / "m.ort")
    assert result.runtime == "ort_format"
    assert [p.name for p in tmp_path.iterdir()] == ["m.ort"]


def test_what_onnx_runtime_does_not_know_is_one_error(exported_float, tmp_path):
    import onnx

    model = OnnxModel(exported_float)
    file = onnx.load(exported_float)
    file.graph.node[0].op_type = "Frobnicate"
    model.path = tmp_path / "unknown.onnx"
    onnx.save(file, model.path)
    with pytest.raises(ModelError, match="Frobnicate"):
        ort_format_from_onnx(model, None, tmp_path / "m.ort")
