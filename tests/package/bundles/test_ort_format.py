"""A bundle of a file in ONNX Runtime's own format."""

from __future__ import annotations

import json

import numpy as np

from kdeploy.export.exporters.ort_format_from_onnx import ort_format_from_onnx
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.package.checksums import write_sums
from kdeploy.package.verify import verify
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.run import open_runtime


def test_its_runner_and_verify_prove_it(make_bundle, tiny, run_runner, tmp_path):
    path = tmp_path / "m.ort"
    ort_format_from_onnx(OnnxModel(tiny.path), None, path)
    outputs = first(open_runtime("ort_format", path, threads=1).infer(tiny.inputs))
    bundle = make_bundle(tmp_path / "bundle", file=path, golden=(tiny.inputs, outputs))
    said = json.loads((bundle / "manifest.json").read_text())["model"]
    assert (said["file"], said["format"]) == ("model.ort", "ort_format")
    assert not said["is_quantized"]
    assert "opset" not in said or said["opset"] is None
    assert verify(bundle).passed
    proven = run_runner(bundle, "--self-test")
    assert proven.returncode == 0, proven.stdout + proven.stderr


def test_golden_outputs_of_another_file_do_not_pass(make_bundle, tiny, tmp_path):
    path = tmp_path / "m.ort"
    ort_format_from_onnx(OnnxModel(tiny.path), None, path)
    outputs = first(open_runtime("ort_format", path, threads=1).infer(tiny.inputs))
    bundle = make_bundle(tmp_path / "bundle", file=path, golden=(tiny.inputs, outputs))
    golden = bundle / "golden" / "outputs.npz"
    np.savez(golden, outputs=outputs + 1)
    write_sums(bundle)
    assert not verify(bundle).passed
