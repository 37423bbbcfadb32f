from __future__ import annotations

import onnx
import pytest
import torch

from kdeploy.errors import ModelError
from kdeploy.export.exporters.openvino_from_onnx import openvino_from_onnx
from kdeploy.export.run import export
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.runtimes.run import open_runtime

pytest.importorskip("openvino")


def test_writes_the_graph_and_the_weights_beside_it(network, tmp_path):
    model, items = network("concatenating")
    result = export(model, "openvino", {}, items, tmp_path / "m.xml")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.bin", "m.xml"]
    assert result.size_bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
    assert result.max_abs < 1e-5


def test_halves_take_half_the_bytes_and_pass_the_gate(exported_float, network, tmp_path):
    model, items = network("concatenating")
    sizes = {}
    for name, is_half in (("float", False), ("half", True)):
        parameters = {"compress_to_fp16": is_half}
        result = export(model, "openvino", parameters, items, tmp_path / name / "m.xml")
        sizes[name] = (tmp_path / name / "m.bin").stat().st_size
    assert sizes["half"] < 0.6 * sizes["float"]
    assert 1e-6 < result.max_abs < 1e-2


def test_a_quantized_file_runs_on_integers(exported, tmp_path):
    openvino_from_onnx(OnnxModel(exported("concatenating")), torch.zeros(1), tmp_path / "m.xml")
    opened = open_runtime("openvino", tmp_path / "m.xml", threads=1)
    proof = opened.proof_of_use()
    opened.close()
    assert proof.is_quantized
    assert proof.integer == proof.eligible == 5


def test_an_unknown_operator_is_named(exported_float, tmp_path):
    model = OnnxModel(exported_float)
    file = onnx.load(exported_float)
    file.graph.node[0].op_type = "Frobnicate"
    model.path = tmp_path / "unknown.onnx"
    onnx.save(file, model.path)
    with pytest.raises(ModelError, match="Frobnicate"):
        openvino_from_onnx(model, torch.zeros(1), tmp_path / "m.xml")


def test_sizes_asked_for_stay_open(network, tmp_path):
    model, items = network("concatenating")
    export(model, "openvino", {"dynamic": ["height", "width"]}, items, tmp_path / "m.xml")
    assert 'shape="?,3,?,?"' in (tmp_path / "m.xml").read_text()
