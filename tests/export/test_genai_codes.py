from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from kdeploy.errors import ModelError
from kdeploy.export.genai_codes import put_codes_in
from kdeploy.quantization.block_rounding import BlockFormat
from kdeploy.quantization.weight_only import ends_of, float_layers, put_in, to_nearest
from tests.tiny.text import VOCABULARY

K, N1, N2 = 64, 5, 7


class Ends(torch.nn.Module):
    """A table, two products that a graph joins to one, and a head that shares the table."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(VOCABULARY, K)
        self.query = torch.nn.Linear(K, N1, bias=False)
        self.key = torch.nn.Linear(K, N2, bias=False)
        self.head = torch.nn.Linear(K, VOCABULARY, bias=False)
        self.head.weight = self.words.weight


def _coded(**forms) -> Ends:
    torch.manual_seed(0)
    model = Ends()
    layers = float_layers(model)
    usual = {"words": (8, 32), "query": (4, 32), "key": (4, 32), "head": (8, 32)} | forms
    symmetric = usual.pop("symmetric", True)
    rounded = [
        to_nearest(n, layers[n], BlockFormat(bits=b, block_size=s, symmetric=symmetric))
        for n, (b, s) in usual.items()
    ]
    put_in(model, rounded, ends_of(layers).ties)
    return model


def _graph(model: Ends) -> ir.Model:
    """Return what a builder may write: products joined, the table as the head's transposed."""
    joined = torch.cat([model.query.weight, model.key.weight]).numpy().T.copy()
    table = model.words.weight.numpy().T.copy()
    nodes = [
        helper.make_node("Transpose", ["table"], ["rows"], perm=[1, 0]),
        helper.make_node("Gather", ["rows", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "joined"], ["both"]),
        helper.make_node("MatMul", ["x", "table"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "t"])],
        [
            helper.make_tensor_value_info("both", TensorProto.FLOAT, ["b", "t", N1 + N2]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "t", VOCABULARY]),
        ],
        [numpy_helper.from_array(joined, "joined"), numpy_helper.from_array(table, "table")],
    )
    opset = [helper.make_opsetid("", 21)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=10))


def _run(graph: ir.Model, ids: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    return session.run(None, {"ids": ids})


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_file_computes_with_the_models_codes(bits, symmetric):
    model = _coded(query=(bits, 32), key=(bits, 32), symmetric=symmetric)
    graph = _graph(model)
    put_codes_in(graph, model)
    ids = np.arange(VOCABULARY)[None]
    both, logits = _run(graph, ids)
    x = model.words.weight[ids[0]]
    expected = [x @ torch.cat([model.query.weight, model.key.weight]).T, x @ model.head.weight.T]
    for found, wanted in zip((both, logits), expected, strict=True):
        # Level 4 rounds the inputs to 8 bits: about 5e-3 of the output's range.
        assert np.abs(found[0] - wanted.numpy()).max() < 2e-2 * np.ptp(wanted.numpy())
    kinds = [node.op_type for node in graph.graph]
    assert kinds.count("MatMulNBits") == 2
    assert kinds.count("GatherBlockQuantized") == 1
    assert not {"MatMul", "Transpose", "Gather"} & set(kinds)


def test_both_ends_read_one_table():
    model = _coded()
    graph = _graph(model)
    put_codes_in(graph, model)
    held = {name: v.const_value.nbytes for name, v in graph.graph.initializers.items()}
    table = VOCABULARY * (K + 4 * K // 32)
    products = (N1 + N2) * (K // 2 + 4 * K // 32)
    assert sum(held.values()) == table + products + 16  # the shape that the table is read in


def test_layers_of_two_formats_in_one_product_are_refused():
    model = _coded(key=(8, 32))
    with pytest.raises(ModelError, match="different formats"):
        put_codes_in(_graph(model), model)


def test_a_layer_that_the_graph_has_otherwise_is_refused():
    model = _coded()
    graph = _graph(model)
    model.key.scales *= 2
    with pytest.raises(ModelError, match="`query` first"):
        put_codes_in(graph, model)
