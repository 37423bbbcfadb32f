"""The bytes of a file before a parser sees them: counted, and refused where memory could not."""

from __future__ import annotations

import tracemalloc

import onnx
import pytest
from onnx import TensorProto, helper

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.checks import read_onnx
from kdeploy.onnx_graph.wire import Malformed, check_wire


def varint(value):
    found = bytearray()
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def small():
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ("batch", 3)) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


BOMBS = {
    "nodes": (field(7, b"\x0a\x00" * 1_100_000), "more than 1000000 fields"),
    "integers": (field(7, field(5, field(7, bytes(70 * 2**20)))), "bytes of packed integers"),
    "text": (field(7, field(2, b"\xff\xfe")), "`name` in it is no text"),
    "zero in text": (field(7, field(2, b"a\0b")), "`name` in it has a character of value 0"),
    "cut off": (field(7, bytes(100))[:50], "cut off"),
    "a group": (b"\x0b\x0c", "no fields"),
    "zeros": (bytes(1000), "no fields"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_what_would_become_too_much_or_is_no_text_is_refused_before_it_is_parsed(tmp_path, kind):
    content, named = BOMBS[kind]
    (tmp_path / "m.onnx").write_bytes(content)
    del content
    tracemalloc.start()
    with pytest.raises(ModelError, match=named):
        read_onnx(tmp_path / "m.onnx")
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


def test_graphs_a_thousand_times_within_one_another_are_refused(tmp_path):
    inner = b""
    for _ in range(1000):
        inner = field(1, field(5, field(6, inner)))
    (tmp_path / "m.onnx").write_bytes(field(7, inner))
    with pytest.raises(Malformed, match="messages deep"):
        check_wire(tmp_path / "m.onnx")


def test_a_network_and_its_unknown_fields_pass(tmp_path):
    (tmp_path / "m.onnx").write_bytes(small().SerializeToString() + field(999, b"later\xff"))
    check_wire(tmp_path / "m.onnx")
    assert onnx.load(tmp_path / "m.onnx").graph.node[0].op_type == "Relu"
