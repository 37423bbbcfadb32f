"""Attention with masks of every form is pruned, made INT8, and computes what it did."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.data.contract import Dataset, Preprocessing, Split

INFINITE = float("-inf")
MASKS = {
    "bool": lambda q, k, v, pad: F.scaled_dot_product_attention(q, k, v, ~pad),
    "infinite": lambda q, k, v, pad: F.scaled_dot_product_attention(
        q, k, v, torch.zeros_like(pad, dtype=q.dtype).masked_fill(pad, INFINITE)
    ),
    "causal": lambda q, k, v, pad: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "filled": lambda q, k, v, pad: (
        (q @ k.transpose(-1, -2) / 2).masked_fill(pad, INFINITE).softmax(-1) @ v
    ),
    "rows of padding": lambda q, k, v, pad: (
        torch.nan_to_num((q @ k.transpose(-1, -2)).masked_fill(pad, INFINITE).softmax(-1)) @ v
    ),
}


class Masked(nn.Module):
    """Steps (batch, channels, length) of which those that are small are padding."""

    def __init__(self, function):
        super().__init__()
        self.heads, self.function = 4, function
        self.stem, self.qkv, self.out = nn.Linear(3, 16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        pad = (x.abs().amax(1) < 0.5)[:, None, None, :]
        x = self.stem(x.transpose(1, 2))
        count, length, _ = x.shape
        parts = self.qkv(x).chunk(3, -1)
        q, k, v = (p.view(count, length, self.heads, -1).transpose(1, 2) for p in parts)
        y = self.function(q, k, v, pad).transpose(1, 2).reshape(count, length, -1)
        return self.head((x + self.out(y)).mean(1))


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_every_form_are_kept(name):
    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((32, 3, 6)).astype(np.float32)
    if name == "rows of padding":
        x[::4] = 0
    part = Split(x=x, y=np.arange(32) % 5)
    form = Preprocessing(shape=(3, 6), classes=tuple("abcde"))
    data = Dataset(
        name="steps", train=part, validation=part, test=part, preprocessing=form, fingerprint="s"
    )
    context = CompressContext(data=data)
    model = Masked(MASKS[name]).eval()
    small = compress(
        model, "prune_channels", {"ratio": 0.5, "round_to": 4, "scope": "local"}, context
    )
    assert (small.heads, small.qkv.out_features) == (2, 24)
    integer = compress(small, "int8_ptq", {"calibration_batches": 1}, CompressContext(data=data))
    with torch.no_grad():
        expected, found = small(torch.from_numpy(x)), integer(torch.from_numpy(x))
    assert found.isfinite().all()
    assert float((found - expected).norm() / expected.norm()) < 0.05
