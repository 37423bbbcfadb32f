"""Networks with random weights must be of the kind that training leaves, or speeds mislead."""

from __future__ import annotations

import onnx
import torch
from torch import nn

from benchmarks.shared.architectures import settle
from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch


def test_settled_batch_norms_leave_every_convolution_a_bias(tmp_path):
    # Fresh ones leave none, and a layer without a bias is faster.
    torch.manual_seed(0)
    layers = [(nn.Conv2d(3, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU6()) for _ in range(2)]
    model = nn.Sequential(*(part for layer in layers for part in layer)).eval()
    noise = torch.randn(4, 3, 8, 8)
    settle(model, noise)
    onnx_from_torch(model, noise, tmp_path / "m.onnx")
    nodes = onnx.load(tmp_path / "m.onnx").graph.node
    assert [len(node.input) for node in nodes if node.op_type == "Conv"] == [3, 3]
