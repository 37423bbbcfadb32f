"""Which layers do not fill a block of an integer kernel."""

from __future__ import annotations

import torch
from torch import nn

from kdeploy.bench.narrow import narrow_layers
from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch


def test_names_narrow_and_depthwise_layers_but_not_the_head(tmp_path):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 5),
    ).eval()
    path = tmp_path / "m.onnx"
    onnx_from_torch(model, torch.zeros(2, 3, 12, 12), path)
    narrow, count = narrow_layers(path)
    assert count == 5
    assert [str(layer) for layer in narrow] == [
        "`0` (3 to 8)",
        "`2` (8 to 32)",
        "`4` (1 to 32, depthwise)",
    ]
