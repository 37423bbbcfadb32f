from __future__ import annotations

import logging
from collections import Counter

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

from kdeploy.errors import ModelError
from kdeploy.export.exporters.transformers_optimized_from_onnx import (
    transformers_optimized_from_onnx,
)
from kdeploy.export.run import export
from kdeploy.onnx_graph.model import OnnxModel


class Block(nn.Module):
    """A pre-norm attention block over (batch, channels, length), as vision transformers have it."""

    def __init__(self, width=8, heads=2):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 16), nn.Linear(16, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        x = x.transpose(1, 2)
        parts = self.qkv(self.norms[0](x)).chunk(3, dim=-1)
        query, key, value = (p.unflatten(-1, (self.heads, 4)).transpose(1, 2) for p in parts)
        weights = (query @ key.transpose(-1, -2) * 0.5).softmax(-1)
        x = x + self.out((weights @ value).transpose(1, 2).flatten(2))
        x = x + self.down(functional.gelu(self.up(self.norms[1](x))))
        return self.head(self.norms[2](x).mean(1))


def test_fuses_a_transformer_and_logs_how_much(data, tmp_path, caplog):
    torch.manual_seed(0)
    with caplog.at_level(logging.INFO, logger="kdeploy"):
        result = export(
            Block().eval(), "transformers_optimized", {}, data((8, 6)), tmp_path / "m.onnx"
        )
    file = onnx.load(result.path)
    counts = Counter(node.op_type for node in file.graph.node)
    assert counts["MultiHeadAttention"] == 1
    assert counts["BiasGelu"] == 1
    assert counts["SkipLayerNormalization"] == 2
    told = "1 BiasGelu, 1 MultiHeadAttention, 2 SkipLayerNormalization"
    assert f"fused: {told}" in caplog.messages
    properties = {p.key: p.value for p in file.metadata_props}
    assert properties["kdeploy.fused"] == told
    assert properties["kdeploy.fused_attention"] == "1 of 1"
    assert properties["kdeploy.profile"] == "float"
    assert result.max_abs < 1e-4


ATTENTION = """
<ir_version: 8, opset_import: ["" : 18]>
text (float[batch, 1, words, 16] x) => (float[batch, 1, words, 16] y)
<float step = {0.1}, float half = {0.5}> {
  key = Transpose<perm = [0, 1, 3, 2]>(x)
  value = Mul(x, half)
  scores = MatMul(x, key)
  weights = Softmax<axis = -1>(scores)
  y = MatMul(weights, value)
}
"""
ON_INTEGERS = "rounded = QuantizeLinear(x, step)\n value = DequantizeLinear(rounded, step)"


def test_a_file_on_integers_keeps_its_attention(tmp_path):
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(onnx.parser.parse_model(ATTENTION), path)
    transformers_optimized_from_onnx(OnnxModel(path), torch.empty(0), out)
    assert "MultiHeadAttention" in {node.op_type for node in onnx.load(out).graph.node}
    text = ATTENTION.replace("value = Mul(x, half)", ON_INTEGERS)
    onnx.save(onnx.parser.parse_model(text), path)
    with pytest.raises(ModelError, match="nothing in the model can be fused"):
        transformers_optimized_from_onnx(OnnxModel(path), torch.empty(0), out)


def test_says_how_much_attention_stays_and_why(tmp_path, caplog):
    over_queries = """
      others = MatMul(key, x)
      odd = Softmax<axis = -2>(others)
      z = MatMul(odd, key)
    """
    text = ATTENTION.replace("  value =", f"{over_queries}  value =")
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text.replace("16] y)", "16] y, float[a, b, c, d] z)")), path)
    with caplog.at_level(logging.INFO, logger="kdeploy"):
        transformers_optimized_from_onnx(OnnxModel(path), torch.empty(0), tmp_path / "out.onnx")
    assert "fused attention: 1 of 2" in caplog.messages
    why = "its softmax runs over another axis than the keys"
    assert f"attention that stays as it is: 1, {why}" in caplog.messages


def test_a_model_in_which_nothing_fuses_is_refused(network, tmp_path):
    model, items = network("concatenating")
    with pytest.raises(ModelError, match="nothing in the model can be fused") as caught:
        export(model, "transformers_optimized", {}, items, tmp_path / "m.onnx")
    assert "`onnx`" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
