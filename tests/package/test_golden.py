"""The tolerance of golden outputs, against numpy and against what really moves."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.errors import ModelError
from kdeploy.package.bundles.onnx import Onnx
from kdeploy.package.golden import (
    FLOAT_FLOOR,
    MAX_ITEMS,
    QUANTIZED_FLOOR,
    tolerance_of,
    write_golden,
)


def tolerance(path, inputs, outputs):
    return tolerance_of(path, Onnx, Onnx.facts_of(path), {"image": inputs}, {"logits": outputs})


def test_a_float_file_may_move_a_thousandth_of_its_outputs_deviation(tiny):
    found = tolerance(tiny.path, tiny.inputs, tiny.outputs)
    assert found.spread < 1e-5
    assert found.atol == pytest.approx(FLOAT_FLOOR * np.std(tiny.outputs))
    assert found.num_items == 6


def test_near_ties_are_not_asked_for_their_class(tiny):
    outputs = tiny.outputs.copy()
    found = tolerance(tiny.path, tiny.inputs, outputs)
    lead = np.sort(outputs, axis=1)[:, -1] - np.sort(outputs, axis=1)[:, -2]
    assert list(found.top1_items) == np.flatnonzero(lead > found.atol).tolist()


def quantized(path, scale=0.05):
    """Write gemm with a quantized output: codes of `scale`."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((3, 64)).astype(np.float32),
        "s": np.float32(scale),
        "z": np.int8(0),
    }
    nodes = [
        helper.make_node("Flatten", ["image"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["g"], transB=1),
        helper.make_node("QuantizeLinear", ["g", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["logits"]),
    ]
    ports = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 8, 8]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "quantized", ports[:1], ports[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


def test_a_quantized_file_may_move_a_tenth(tmp_path, tiny, run_onnx):
    path = quantized(tmp_path / "q.onnx")
    outputs = run_onnx(path, tiny.inputs)
    found = tolerance(path, tiny.inputs, outputs)
    floor = QUANTIZED_FLOOR * np.std(outputs)
    assert found.atol == pytest.approx(max(floor, 4 * found.spread))
    assert found.rms_atol == pytest.approx(max(floor, 4 * found.rms_spread))


def moved(by, path, inputs, outputs):
    """Return the tolerance where the plainest kernels move the outputs by an array."""

    class Kind(Onnx):
        @staticmethod
        def open_model(path, threads, is_plain):
            run = Onnx.open_model(path, threads, is_plain)
            moves = iter(by)
            return lambda feeds: {k: v + is_plain * next(moves) for k, v in run(feeds).items()}

    return tolerance_of(path, Kind, Onnx.facts_of(path), {"image": inputs}, {"logits": outputs})


def test_where_single_numbers_move_far_the_root_mean_square_is_judged(tiny):
    std = float(np.std(tiny.outputs))
    by = np.zeros_like(tiny.outputs)
    by[2, 1] = 0.4 * std
    found = moved(by, tiny.path, tiny.inputs, tiny.outputs)
    assert found.atol == pytest.approx(std)
    assert found.rms_spread == pytest.approx(0.4 * std / np.sqrt(by.size), rel=1e-4)
    assert found.rms_atol == pytest.approx(4 * found.rms_spread)
    far = moved(by + 3 * std, tiny.path, tiny.inputs, tiny.outputs)
    assert far.rms_atol == pytest.approx(std / 2)
    near = moved(by / 2, tiny.path, tiny.inputs, tiny.outputs)
    assert near.rms_atol is near.rms_spread is None


def test_only_the_first_items_are_kept(tiny, tmp_path, run_onnx):
    inputs = np.concatenate([tiny.inputs] * 4)
    outputs = np.concatenate([tiny.outputs] * 4)
    found = write_golden(tmp_path, tiny.path, Onnx, Onnx.facts_of(tiny.path), inputs, outputs)
    assert found.num_items == MAX_ITEMS
    stored = np.load(tmp_path / "golden/inputs.npz", allow_pickle=False)["inputs"]
    np.testing.assert_array_equal(stored, inputs[:MAX_ITEMS])
    written = json.loads((tmp_path / "golden/tolerance.json").read_text())
    assert written["atol"] == found.atol


@pytest.mark.parametrize(
    ("inputs", "outputs", "named"),
    [
        (lambda x: x.astype(np.float64), lambda y: y, "float64"),
        (lambda x: x[:, :, :7], lambda y: y, "7"),
        (lambda x: x[:0], lambda y: y[:0], "at least one"),
        (lambda x: x, lambda y: y[:5], "expected 6 rows"),
        (lambda x: x, lambda y: y[:, :2], "the file gives"),
        (lambda x: x, lambda y: y * np.nan, "NaN"),
        (lambda x: x, lambda y: y + 1, "does not give"),
    ],
)
def test_golden_data_that_are_not_this_files_are_refused(tiny, tmp_path, inputs, outputs, named):
    with pytest.raises(ModelError, match=named) as error:
        write_golden(
            tmp_path,
            tiny.path,
            Onnx,
            Onnx.facts_of(tiny.path),
            inputs(tiny.inputs),
            outputs(tiny.outputs),
        )
    assert error.value.hint
    assert list(tmp_path.iterdir()) == []
