from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import nn
from torch.nn import functional

from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch
from kdeploy.onnx_graph.attention_fusion import fuse_attention

VOCABULARY, WIDTH, HEADS = 11, 16, 2


class Attention(nn.Module):
    """What torch's fused function is given: a mask of some kind, or its own factor."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.parts = kind, nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x, is_word):
        heads = (p.unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in self.parts(x).chunk(3, -1))
        hidden = is_word[:, None, None, :]
        given = {
            "plain": {},
            "scaled": {"scale": 0.7},
            "causal": {"is_causal": True},
            "boolean": {"attn_mask": hidden},
            "additive": {"attn_mask": (1 - hidden.float()) * -1e4},
        }
        mixed = functional.scaled_dot_product_attention(*heads, **given[self.kind])
        return x + mixed.transpose(1, 2).flatten(2)


class Text(nn.Module):
    """Attentions one after the other: (batch, words) -> (batch, words, width)."""

    def __init__(self, *layers):
        super().__init__()
        self.words, self.layers = nn.Embedding(VOCABULARY, WIDTH), nn.ModuleList(layers)

    def forward(self, ids):
        x, is_word = self.words(ids), ids != 0
        for layer in self.layers:
            if isinstance(layer, Attention):
                x = layer(x, is_word)
            else:
                x = x + layer(x, x, x, key_padding_mask=~is_word, need_weights=False)[0]
                x = x + layer(x, x, x, need_weights=True)[0]
        return x


def test_fuses_what_torch_exports_for_any_batch_and_length(tmp_path):
    torch.manual_seed(0)
    kinds = ("plain", "scaled", "causal", "boolean", "additive")
    layers = [*map(Attention, kinds), nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)]
    model, path = Text(*layers).eval(), tmp_path / "m.onnx"
    onnx_from_torch(model, torch.ones(2, 6, dtype=torch.int64), path, dynamic=("length",))
    fused = onnx.load(path)
    fused, fusion = fuse_attention(fused)
    onnx.checker.check_model(fused)
    assert (fusion.fused, fusion.left) == (7, ())
    counts = Counter(node.op_type for node in fused.graph.node)
    assert counts["MultiHeadAttention"] == 7
    assert counts["Softmax"] == counts["Trilu"] == 0
    for shape in ((2, 6), (1, 9), (3, 1)):
        ids = torch.randint(VOCABULARY, shape)
        ids[:, 0] = 1  # nothing but padding is not a number in torch, either
        wanted = model(ids).detach().numpy()
        np.testing.assert_allclose(run(fused, ids.numpy()), wanted, atol=1e-5)


WRITTEN_OUT = """
<ir_version: 8, opset_import: ["" : 18]>
text (float[batch, words, 16] x, bool[batch, 1, 1, words] mask) => (float[batch, words, 16] y)
<int64[4] apart = {0, 0, 2, 8}, int64[3] together = {0, 0, 16}, float[1] third = {0.35},
 float lowest = {-3e38}, float endless = {-inf}, float zero = {0}, float[16] turn = {1,2,3,4,5,6,7,
 8,9,10,11,12,13,14,15,16}, int64[4] turned = {1, 2, 1, 8}>
{
  parts = Reshape(x, apart)
  query = Transpose<perm = [0, 2, 1, 3]>(parts)
  key = Transpose<perm = [0, 2, 3, 1]>(parts)
  value = Transpose<perm = [0, 2, 1, 3]>(parts)
  products = MatMul(query, key)
  scores = Mul(products, third)
  weights = Softmax<axis = -1>(scores)
  mixed = MatMul(weights, value)
  back = Transpose<perm = [0, 2, 1, 3]>(mixed)
  y = Reshape(back, together)
}
"""
MASKED = {"Softmax<axis = -1>(scores)": "Softmax<axis = -1>(masked)"}
GUARDED = {
    "Softmax<axis = -1>(scores)": "Softmax<axis = -1>(masked)\n is_none = IsNaN(weights)\n"
    "kept = Where(is_none, zero, weights)",
    "MatMul(weights,": "MatMul(kept,",
}


def masked(lines, more=MASKED):
    return {"weights = ": f"{lines}\n weights = ", **more}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"Mul(products, third)": "Div(products, third)"},
        {"Softmax<axis = -1>": "Softmax<axis = 3>"},
        {"MatMul(query, key)": "MatMul(small, key)", "products = ":
         "small = Mul(query, third)\n products = "},
        masked("masked = Where(mask, scores, lowest)"),
        masked("masked = Where(mask, endless, scores)"),
        masked("bias = Where(mask, zero, lowest)\n masked = Add(bias, scores)"),
        masked("bias = Where(mask, zero, lowest)\n masked = Add(scores, bias)", GUARDED),
        masked("bias = Where(mask, zero, lowest)\n more = Add(scores, bias)\n"
               " masked = Where(mask, more, lowest)"),
        # Heads that were turned, as positions turn them, are put back by words.
        {"key = ": "angle = Reshape(turn, turned)\n other = Mul(query, angle)\n key = ",
         "MatMul(query": "MatMul(other"},
        # The result is read by heads.
        {"back = ": "heads = Relu(mixed)\n back = ", ">(mixed)": ">(heads)"},
    ],
)  # fmt: skip
def test_fuses_what_is_written_out(changes):
    model = written_out(changes)
    fused = onnx.ModelProto()
    fused.CopyFrom(model)
    fused, fusion = fuse_attention(fused)
    onnx.checker.check_model(fused)
    assert (fusion.fused, fusion.left) == (1, ())
    assert [n.domain for n in fused.graph.node].count("com.microsoft") == 1
    for batch, words in ((2, 6), (1, 3)):
        x = np.random.default_rng(0).normal(size=(batch, words, 16)).astype(np.float32)
        mask = np.arange(words)[None, None, None] < np.full((batch, 1, 1, 1), 2)
        np.testing.assert_allclose(run(fused, x, mask), run(model, x, mask), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"axis = -1": "axis = -2"}, "another axis"),
        ({"(float[batch, words, 16] y)": "(float[batch, words, 16] y, float[b, n, q, k] weights)"},
         "read elsewhere"),
        ({"back = ": "sum = Add(scores, weights)\n mixed2 = MatMul(sum, value)\n back = ",
          ">(mixed)": ">(mixed2)"}, "read elsewhere"),
        ({"Mul(products, third)": "Tanh(products)"}, "`Tanh`"),
        (masked("masked = Where(mask, scores, third)"), "`Where`"),
        (masked("bias = Where(mask, zero, endless)\n masked = Add(scores, bias)", GUARDED),
         "may be infinite"),
        ({"MatMul(query, key)": "MatMul(learned, key)", "parts = ":
          "learned = Reshape(turn, turned)\n parts = "}, "differ in items"),
        ({"float[": "double[", "float ": "double "}, "not float32"),
        ({'"" : 18': '"" : 14'}, "opset 14"),
        ({"back = ": "seen = If (truth) <then_branch = a () => (float[b, n, q, k] c)\n"
          "{ c = Identity(weights) }, else_branch = d () => (float[b, n, q, k] e)\n"
          "{ e = Identity(scores) }>\n back = ", "float zero": "bool truth = {1}, float zero"},
         "branches or loops"),
    ],
)  # fmt: skip
def test_leaves_what_the_operator_would_not_compute(changes, reason):
    model = written_out(changes)
    nodes = [node.SerializeToString() for node in model.graph.node]
    model, fusion = fuse_attention(model)
    assert (fusion.found, fusion.fused) == (1, 0)
    assert reason in fusion.left[0]
    assert set(nodes) >= {node.SerializeToString() for node in model.graph.node}
    assert "Softmax" in {node.op_type for node in model.graph.node}


def test_a_softmax_without_values_is_no_attention():
    model = written_out(
        {"MatMul(weights, value)": "Mul(weights, third)", "words, 16] y": "b, c] y"}
    )
    assert fuse_attention(model)[1].found == 0


def written_out(changes):
    text = WRITTEN_OUT
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    model = onnx.parser.parse_model(text)
    assert model.graph.initializer[2].data_type in {TensorProto.FLOAT, TensorProto.DOUBLE}
    return model


def run(model, *inputs):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]
