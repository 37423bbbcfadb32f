"""Fields that anyone can write: each malformed one is one error, the same from every reader."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.errors import FileMissing, KdeployError, ModelError
from kdeploy.onnx_graph.checks import content_sha256, copy_file, file_bytes, read_onnx
from kdeploy.onnx_graph.facts import count_parameters, item_shape, takes_integers
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.package.bundles.onnx import Onnx

READERS = {
    "read": read_onnx,
    "package": Onnx.facts_of,
    "parameters": count_parameters,
    "shape": item_shape,
    "kind": takes_integers,
    "digest": content_sha256,
    "size": file_bytes,
    "copy": lambda path: copy_file(path, path.with_name("copy.onnx")),
    "teacher": OnnxModel,
}


def model():
    """Return y = relu(w x) with weights in the file."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ("batch", 3)) for n in "xy"]
    w = numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["g"], alpha=1.0),
        helper.make_node("Relu", ["g"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def dims(*sizes):
    def change(m):
        m.graph.initializer[0].dims[:] = sizes

    return change


def first_axis(size):
    def change(m):
        m.graph.input[0].type.tensor_type.shape.dim[1].dim_value = size

    return change


def typed(kind):
    def change(m):
        m.graph.initializer[0].data_type = kind

    return change


def sparse(m):
    tensor = m.graph.sparse_initializer.add()
    tensor.values.data_type = 1
    tensor.values.dims[:] = [2**40]


def asking(operator, size, **attributes):
    def change(m):
        inputs = {"ConstantOfShape": ["size"], "Expand": ["x", "size"], "Tile": ["x", "size"]}
        m.graph.initializer.append(helper.make_tensor("size", TensorProto.INT64, [2], [size, size]))
        node = helper.make_node(operator, inputs.get(operator, []), ["huge"], **attributes)
        m.graph.node.insert(0, node)

    return change


MALFORMED = {
    "a type that does not exist": (typed(77), "of the type 77"),
    "no type": (typed(0), "of the type 0"),
    "a negative axis": (dims(-3, 3), "has the shape [-3, 3]"),
    "too many numbers": (dims(2**40, 2**20), "has the shape"),
    "a terabyte": (dims(2**30, 2**3), "needed"),
    "fewer bytes than the shape says": (dims(3, 4), "has 36 bytes of data; 48 are needed"),
    "no data": (lambda m: m.graph.initializer[0].ClearField("raw_data"), "0 numbers; 9"),
    "sparse numbers": (sparse, "has the shape"),
    "an input without a type": (lambda m: m.graph.input[0].ClearField("type"), "has no type"),
    "an input of no known type": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99),
        "of the type 99",
    ),
    "an axis of 2^40": (first_axis(2**40), "numbers an item"),
    "an axis of -2": (first_axis(-2), "axis of size -2"),
    "an input without a name": (lambda m: setattr(m.graph.input[0], "name", ""), "no name"),
    "two inputs of a name": (lambda m: m.graph.input.append(m.graph.input[0]), "two inputs"),
    "an opset of -1": (lambda m: setattr(m.opset_import[0], "version", -1), "opset is -1"),
    "an opset of 2^62": (lambda m: setattr(m.opset_import[0], "version", 2**62), "opset is"),
    "no output": (lambda m: m.graph.ClearField("output"), "has no output"),
    "data here and elsewhere": (
        lambda m: setattr(m.graph.initializer[0], "data_location", TensorProto.EXTERNAL),
        "in the file and in another one",
    ),
    "no opset": (lambda m: m.ClearField("opset_import"), "does not name the opset"),
    "two opsets": (lambda m: m.opset_import.add(version=17), "two opsets of one domain"),
    "a segment": (
        lambda m: m.graph.initializer[0].segment.SetInParent(),
        "is a segment",
    ),
    "an attribute without a type": (
        lambda m: m.graph.node[0].attribute[0].ClearField("type"),
        "no type or no name",
    ),
    "a constant of a terabyte": (asking("ConstantOfShape", 2**20), "makes a tensor of"),
    "an expansion to a terabyte": (asking("Expand", 2**20), "makes a tensor of"),
    "tiles": (asking("Tile", 2**20), "makes a tensor of"),
    "random numbers": (asking("RandomNormal", 1, shape=[2**40]), "makes a tensor of"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_field_is_one_error_from_every_reader(tmp_path, kind):
    change, named = MALFORMED[kind]
    written = model()
    change(written)
    (tmp_path / "m.onnx").write_bytes(written.SerializeToString())
    messages = set()
    for read in READERS.values():
        with pytest.raises(ModelError) as caught:
            read(tmp_path / "m.onnx")
        assert caught.value.hint
        messages.add(caught.value.message)
    assert len(messages) == 1
    assert named in messages.pop()


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"location": "w.bin", "offset": "abc"}, "no numbers"),
        ({"location": "w.bin", "offset": "-1"}, "no numbers"),
        ({"location": "w.bin", "length": "9" * 5000}, "no numbers"),
        ({"location": "w.bin", "length": "12"}, "is 12 bytes of `w.bin`; its shape"),
        ({"location": "w.bin", "length": ""}, "no numbers"),
        ({"location": "w.bin", "offset": "", "length": "36"}, "no numbers"),
        ({"location": "long.bin"}, "is 40 bytes of `long.bin`; its shape"),
        ({"location": "w.bin", "offset": "4"}, "is cut off"),
        ({"location": "w.bin", "offset": str(2**60)}, "is cut off"),
        ({"location": "x" * 5000}, "outside its own folder"),
        ({"location": "a/" * 3000}, "outside its own folder"),
        ({"location": "loop"}, "outside its own folder"),
        ({"location": "pipe"}, "not beside it"),
        ({"location": "."}, "not beside it"),
        ({}, "outside its own folder"),
    ],
)
def test_what_a_file_says_of_its_tensors_elsewhere_is_looked_at(tmp_path, entries, named):
    import os

    (tmp_path / "w.bin").write_bytes(bytes(36))
    (tmp_path / "long.bin").write_bytes(bytes(40))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    written = model()
    [w] = written.graph.initializer
    w.ClearField("raw_data")
    w.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        w.external_data.add(key=key, value=value)
    (tmp_path / "m.onnx").write_bytes(written.SerializeToString())
    for read in (read_onnx, content_sha256, file_bytes, Onnx.facts_of):
        with pytest.raises((ModelError, FileMissing)) as caught:
            read(tmp_path / "m.onnx")
        assert named in caught.value.message


def test_an_output_that_is_no_tensor_is_said_by_whoever_needs_one(tmp_path):
    written = model()
    inner = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    written.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(inner))
    (tmp_path / "m.onnx").write_bytes(written.SerializeToString())
    assert count_parameters(tmp_path / "m.onnx") == 9
    with pytest.raises(ModelError, match="is no tensor with a shape"):
        Onnx.facts_of(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "tensor",
    [
        helper.make_tensor("t", TensorProto.FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor("t", TensorProto.FLOAT16, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("t", TensorProto.INT8, [3], [1, 2, 3]),
        helper.make_tensor("t", TensorProto.INT4, [3], [1, 2, 3]),
        helper.make_tensor("t", TensorProto.BOOL, [2], [True, False]),
        helper.make_tensor("t", TensorProto.DOUBLE, [], [1.0]),
        helper.make_tensor("t", TensorProto.UINT64, [1], [2**63]),
        helper.make_tensor("t", TensorProto.COMPLEX64, [2], [1j, 2.0]),
        helper.make_tensor("t", TensorProto.STRING, [2], [b"a", b"b"]),
        helper.make_tensor("t", TensorProto.INT64, [0], []),
        numpy_helper.from_array(np.zeros((2, 0), np.float32), "t"),
        numpy_helper.from_array(np.arange(5, dtype=np.uint16), "t"),
    ],
)
def test_tensors_of_every_kind_that_onnx_itself_writes_pass(tmp_path, tensor):
    written = model()
    written.graph.initializer.append(tensor)
    onnx.save(written, tmp_path / "m.onnx")
    assert read_onnx(tmp_path / "m.onnx").graph.initializer[1].name == "t"


def test_no_message_repeats_a_name_of_thousands_of_characters(tmp_path):
    written = model()
    written.graph.initializer[0].name = "n" * 100_000
    written.graph.initializer[0].dims[:] = [9, 9]
    onnx.save(written, tmp_path / "m.onnx")
    with pytest.raises(KdeployError) as caught:
        read_onnx(tmp_path / "m.onnx")
    assert len(caught.value.message) < 500
