"""Attention with and without an axis of heads: the file answers what torch answers."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from kdeploy.export.io_signature import IOSignature
from kdeploy.export.torch_exporters import export_program

WIDTH = 8


class Attending(nn.Module):
    """Every kind of mask, one head after another."""

    def __init__(self, heads: bool) -> None:
        super().__init__()
        self.heads = heads
        self.queries, self.keys = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        shown = (x[..., 0] > 0)[:, None, :].expand(-1, x.shape[1], -1)
        query, key, value = (
            t.unsqueeze(1) if self.heads else t for t in (self.queries(x), self.keys(x), x)
        )
        shown = shown.unsqueeze(1) if self.heads else shown
        attend = functional.scaled_dot_product_attention
        found = (
            attend(query, key, value),
            attend(query, key, value, attn_mask=shown),
            attend(query, key, value, attn_mask=shown.float() - 1),
            attend(query, key, value, is_causal=True, scale=0.3),
        )
        return torch.cat(found, -1).reshape(len(x), -1, 4 * WIDTH)


@pytest.mark.parametrize("heads", [False, True])
def test_attention_with_and_without_heads_answers_as_torch_does(heads):
    torch.manual_seed(0)
    model, x = Attending(heads).eval(), torch.randn(3, 5, WIDTH)
    if (
        not heads
    ):  # with heads torch's exporter writes it, and takes the mean where nothing is shown
        x[0, :, 0] = -1.0
    else:
        x[:, 0, 0] = 1.0
    ends = IOSignature(inputs=("x",), outputs=("y",))
    program = export_program(model, (x[:2],), ends, opset=18, axes={}, optimize=True)
    session = onnxruntime.InferenceSession(program.SerializeToString())
    (found,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(x).numpy(), atol=1e-5)
