"""ONNX files from elsewhere are packaged as they are: several inputs, a state, and no data."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.errors import ArtifactCorrupt, ModelError
from kdeploy.onnx_graph.input_fitting import parse_inputs
from kdeploy.package.checksums import write_sums
from kdeploy.package.verify import verify
from kdeploy.pipeline.outside_files import package_file, takes_several

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


class Listener:
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def message(self, text):
        self.said.append(text)


def written(path, nodes, inputs, outputs, **weights):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **dict(node[3:])) for node in nodes],
        "outside",
        [value(*one) for one in inputs],
        [value(*one) for one in outputs],
        [numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.fixture
def streaming(tmp_path):
    """Return a file of three inputs, one a state: a sum that goes on, and its negative."""
    return written(
        tmp_path / "streaming.onnx",
        [
            ("Cast", ["sr"], ["rate"], ("to", FLOAT)),
            ("Div", ["x", "rate"], ["scaled"]),
            ("ReduceSum", ["scaled", "axes"], ["sum"]),
            ("Add", ["state", "sum"], ["stateN"]),
            ("Neg", ["stateN"], ["y"]),
        ],
        [
            ("x", FLOAT, ["batch", "length"]),
            ("state", FLOAT, ["batch", 1]),
            ("sr", INT64, []),
        ],
        [("y", FLOAT, ["batch", 1]), ("stateN", FLOAT, ["batch", 1])],
        axes=np.array([1]),
    )


def packaged(file, out, *inputs):
    listener = Listener()
    given = parse_inputs(inputs, where="--input")
    return package_file(file, given, None, [], out, listener), listener.said


def test_a_stream_is_packaged_with_its_state_and_runs_on_the_device(streaming, tmp_path):
    assert takes_several(streaming)
    result, said = packaged(streaming, tmp_path / "bundle", "x=1,4")
    assert result.passed, result.checks
    assert "`stateN` goes back in as `state`" in said[0]
    manifest = json.loads((tmp_path / "bundle/manifest.json").read_text())
    assert manifest["schema_version"] == 2
    assert manifest["state"] == [{"input": "state", "output": "stateN"}]
    assert [p["shape"] for p in manifest["inputs"]] == [["batch", 4], ["batch", 1], []]
    assert "preprocessing" not in manifest
    x = np.ones((3, 4), np.float32)
    np.savez(tmp_path / "items.npz", x=x, sr=np.full(3, 2))
    program = [sys.executable, tmp_path / "bundle/runner/python/run.py"]
    done = subprocess.run(
        [*program, "--json", tmp_path / "items.npz"], capture_output=True, text=True, check=True
    )
    told = [one["outputs"]["y"] for one in json.loads(done.stdout)["predictions"]]
    assert told == [[[-2.0]], [[-4.0]], [[-6.0]]]
    plain = subprocess.run([*program, tmp_path / "items.npz"], capture_output=True, text=True)
    assert "items.npz[2]: y -6, stateN 6" in plain.stdout


def test_a_state_may_have_its_batch_in_the_second_axis(tmp_path):
    file = written(
        tmp_path / "layers.onnx",
        [
            ("ReduceSum", ["x", "axes"], ["sum"], ("keepdims", 1)),
            ("Add", ["h", "sum"], ["hn"]),
            ("ReduceSum", ["hn", "layers"], ["y"], ("keepdims", 0)),
        ],
        [("x", FLOAT, ["batch", 4]), ("h", FLOAT, [2, "batch", 1])],
        [("y", FLOAT, ["batch", 1]), ("hn", FLOAT, [2, "batch", 1])],
        axes=np.array([1]),
        layers=np.array([0]),
    )
    result, said = packaged(file, tmp_path / "bundle")
    assert result.passed, result.checks
    assert "`hn` goes back in as `h`" in said[0]
    manifest = json.loads((tmp_path / "bundle/manifest.json").read_text())
    assert [p["shape"] for p in manifest["inputs"]] == [["batch", 4], [2, "batch", 1]]
    np.savez(tmp_path / "items.npz", x=np.ones((3, 4), np.float32))
    program = [sys.executable, tmp_path / "bundle/runner/python/run.py", "--json"]
    done = subprocess.run(
        [*program, tmp_path / "items.npz"], capture_output=True, text=True, check=True
    )
    told = [one["outputs"]["y"] for one in json.loads(done.stdout)["predictions"]]
    assert told == [[[8.0]], [[16.0]], [[24.0]]]


def test_a_changed_further_output_is_found(streaming, tmp_path):
    bundle = tmp_path / "bundle"
    packaged(streaming, bundle, "x=1,4")
    with np.load(bundle / "golden/outputs.npz") as stored:
        first, second = (stored[name] for name in stored.files)
    second = second[::-1].copy()
    np.savez(bundle / "golden/outputs.npz", first, second)
    write_sums(bundle)
    failed = [c["check"] for c in verify(bundle).checks if not c["passed"]]
    assert failed == ["golden.max_abs"]


def test_a_state_that_the_file_does_not_have_is_refused(streaming, tmp_path):
    bundle = tmp_path / "bundle"
    packaged(streaming, bundle, "x=1,4")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["state"][0]["output"] = "other"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    write_sums(bundle)
    with pytest.raises(ArtifactCorrupt, match="names no input and output of one type"):
        verify(bundle)


def test_answers_of_different_sizes_are_recorded_of_one_item(tmp_path):
    file = written(
        tmp_path / "found.onnx",
        [("Greater", ["x", "zero"], ["large"]), ("NonZero", ["large"], ["places"])],
        [("x", FLOAT, ["batch", 9])],
        [("places", INT64, [2, "count"])],
        zero=np.float32(0),
    )
    result, _ = packaged(file, tmp_path / "bundle")
    assert result.passed, result.checks
    tolerance = json.loads((tmp_path / "bundle/golden/tolerance.json").read_text())
    assert (tolerance["num_items"], tolerance["top1_items"]) == (1, [])


def test_a_size_that_nobody_named_leaves_nothing(streaming, tmp_path):
    with pytest.raises(ModelError, match="leaves sizes open") as caught:
        packaged(streaming, tmp_path / "bundle")
    assert "--input x=" in caught.value.hint
    assert not (tmp_path / "bundle").exists()


def test_items_for_the_device_are_checked(streaming, tmp_path):
    packaged(streaming, tmp_path / "bundle", "x=1,4")
    program = [sys.executable, tmp_path / "bundle/runner/python/run.py"]
    for arrays, told in (
        ({"x": np.ones((3, 4), np.float32)}, "holds no array `sr`"),
        ({"x": np.ones((3, 5), np.float32), "sr": np.ones(3)}, "it takes (4,)"),
        ({"x": np.full((1, 4), np.nan), "sr": np.ones(1)}, "NaN or infinity"),
    ):
        np.savez(tmp_path / "items.npz", **arrays)
        done = subprocess.run([*program, tmp_path / "items.npz"], capture_output=True, text=True)
        assert done.returncode == 2
        assert told in done.stderr
        assert "hint: save" in done.stderr or "hint: every" in done.stderr
