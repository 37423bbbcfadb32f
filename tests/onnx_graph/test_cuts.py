"""Files that are cut out of one give, one after the other, what it gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.cuts import cut

FEATURES = 4
random = np.random.default_rng(0)


def node(kind, taken, given, **attributes):
    return helper.make_node(kind, taken, [given], **attributes)


def write(path, nodes, outputs, *, weights):
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", FEATURES])
        for name in ("x", *outputs)
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "whole", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    for key, value in (("kdeploy.output", ",".join(outputs)), ("kdeploy.label", "net")):
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


def matrix():
    return random.normal(size=(FEATURES, FEATURES)).astype(np.float32)


@pytest.fixture
def branching(tmp_path):
    """A network with a skip around its first exit, whose size is read off a tensor."""
    nodes = [
        node("MatMul", ["x", "w1"], "a"),
        node("Relu", ["a"], "b"),
        node("MatMul", ["b", "head"], "early"),
        node("Shape", ["a"], "size"),
        node("MatMul", ["b", "w2"], "c"),
        node("Add", ["c", "x"], "d"),
        node("Reshape", ["d", "size"], "last"),
    ]
    weights = {"w1": matrix(), "head": matrix(), "w2": matrix()}
    return write(tmp_path / "whole.onnx", nodes, ["early", "last"], weights=weights)


def run(path, feeds):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def run_parts(paths, pieces, x, *, kept=slice(None)):
    """Return the outputs of all parts; after the first, of some rows alone."""
    known, found = {"x": x}, []
    for path, piece in zip(paths, pieces, strict=True):
        known |= run(path, {name: known[name] for name in piece.takes})
        found.append(known[piece.gives[0]])
        if piece is pieces[0]:
            known = {name: values[kept] for name, values in known.items()}
    return found


def targets(folder):
    return [folder / f"part-{number}.onnx" for number in range(2)]


def test_parts_compute_what_the_whole_does(branching, tmp_path):
    pieces = cut(branching, ["early", "last"], targets(tmp_path))
    x = random.normal(size=(5, FEATURES)).astype(np.float32)
    whole = run(branching, {"x": x})
    early, last = run_parts(targets(tmp_path), pieces, x)
    np.testing.assert_array_equal(early, whole["early"])
    np.testing.assert_array_equal(last, whole["last"])


def test_a_part_takes_rows_alone_and_so_goes_on_with_some_of_them(branching, tmp_path):
    pieces = cut(branching, ["early", "last"], targets(tmp_path))
    assert "size" not in pieces[1].takes  # of all rows, not of those that go on
    x = random.normal(size=(6, FEATURES)).astype(np.float32)
    _, some = run_parts(targets(tmp_path), pieces, x, kept=np.array([1, 4]))
    np.testing.assert_array_equal(some, run(branching, {"x": x[[1, 4]]})["last"])


def test_nothing_is_computed_twice_that_can_be_taken_along(branching, tmp_path):
    cut(branching, ["early", "last"], targets(tmp_path))
    first, second = ([n.op_type for n in onnx.load(t).graph.node] for t in targets(tmp_path))
    assert first == ["MatMul", "Relu", "MatMul"]
    assert second.count("MatMul") == 1
    props = {p.key: p.value for p in onnx.load(targets(tmp_path)[0]).metadata_props}
    assert props == {"kdeploy.label": "net"}


def test_integers_travel_and_are_decoded_where_they_are_read(tmp_path):
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], "codes"),
        node("DequantizeLinear", ["codes", "scale", "zero"], "floats"),
        node("MatMul", ["floats", "head"], "early"),
        node("MatMul", ["floats", "w2"], "last"),
    ]
    weights = {
        "scale": np.float32(0.1),
        "zero": np.uint8(128),
        "head": matrix(),
        "w2": matrix(),
    }
    weights = {name: np.asarray(value) for name, value in weights.items()}
    path = write(tmp_path / "whole.onnx", nodes, ["early", "last"], weights=weights)
    pieces = cut(path, ["early", "last"], targets(tmp_path))
    assert pieces[1].takes == ("codes",)
    second = [n.op_type for n in onnx.load(targets(tmp_path)[1]).graph.node]
    assert second == ["DequantizeLinear", "MatMul"]
    x = random.normal(size=(3, FEATURES)).astype(np.float32)
    np.testing.assert_array_equal(
        run_parts(targets(tmp_path), pieces, x)[1], run(path, {"x": x})["last"]
    )


def test_outputs_in_another_order_than_they_are_computed_are_refused(branching, tmp_path):
    with pytest.raises(ModelError, match="no more to compute"):
        cut(branching, ["early", "early"], targets(tmp_path))
