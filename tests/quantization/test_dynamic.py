from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.quantization.dynamic import DynamicModel, dynamic, dynamic_linear


class Recurrent(nn.Module):
    def __init__(self, *, state=False, **options):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, **options)
        width = 8 * (2 if options.get("bidirectional") else 1)
        self.head = nn.Linear(width, 5, bias=False)
        self.state = state

    def forward(self, x):
        outputs, (last, _) = self.lstm(x)
        return self.head(last[-1] if self.state else outputs[:, -1])


def made(**options):
    torch.manual_seed(0)
    return Recurrent(batch_first=True, **options).eval(), torch.randn(4, 7, 6)


def test_a_linear_layer_is_the_formula():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, (3, 6)).astype(np.float32)
    weight = rng.normal(0, 1, (5, 6)).astype(np.float32)
    bias = rng.normal(0, 1, 5).astype(np.float32)
    # ONNX, DynamicQuantizeLinear-11 and MatMulInteger-10
    step = (x.max() - x.min()) / np.float32(255)
    zero = np.clip(np.rint(-x.min() / step), 0, 255)
    codes = np.clip(np.rint(x / step) + zero, 0, 255).astype(np.int32)
    scales = np.abs(weight).max(1) / np.float32(127)
    stored = np.rint(weight / scales[:, None]).astype(np.int32)
    expected = ((codes - int(zero)) @ stored.T) * (step * scales) + bias

    layer = nn.Linear(6, 5)
    layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    model = DynamicModel(layer, torch.from_numpy(x))
    np.testing.assert_allclose(model(torch.from_numpy(x)).numpy(), expected, rtol=1e-5, atol=1e-5)
    kept = {t.dtype: t for t in model.graph.buffers()}
    np.testing.assert_array_equal(kept[torch.int8].numpy(), stored.T)


def test_an_input_of_zeros_stays_zero():
    outputs = dynamic_linear(torch.zeros(2, 3), torch.ones(3, 4, dtype=torch.int8), torch.ones(4))
    assert not outputs.any()


@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True}, {"num_layers": 2}, {"bias": False}]
)
def test_an_lstm_stays_close_to_the_float_one(options):
    model, x = made(**options)
    small = DynamicModel(model, x[:2])
    assert small.layers() == ["lstm", "head"]
    expected = model(x).detach()
    assert 0 < float((small(x) - expected).abs().max()) < 0.05 * float(expected.std())


def test_the_same_model_comes_of_its_state():
    model, x = made(bidirectional=True)
    small = DynamicModel(model, x[:2], ignore=["he*"], reduce_range=True)
    again = dynamic(copy.deepcopy(model), json.loads(json.dumps(small.state())), x[:2])
    assert again.layers() == ["lstm"]
    assert torch.equal(again(x), small(x))
    assert not torch.equal(DynamicModel(model, x[:2], ignore=["head"])(x), small(x))


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.gru = nn.Embedding(9, 6), nn.GRU(6, 6, batch_first=True)
        self.conv, self.head = nn.Conv1d(6, 6, 3), nn.Linear(6, 2)

    def forward(self, ids):
        x, _ = self.gru(self.words(ids))
        return self.head(self.conv(x.transpose(1, 2)).amax(2))


def test_layers_that_stay_float_are_named_with_the_reason():
    small = DynamicModel(Mixed().eval(), torch.randint(0, 9, (2, 7)), ignore=["head"])
    assert small.layers() == ["words"]
    assert {name: reason.split()[0] for name, reason in small.declined.items()} == {
        "gru": "ONNX",
        "conv": "convolutions",
        "head": "ignored,",
    }


@pytest.mark.parametrize(
    ("options", "reason"), [({"state": True}, "last states"), ({"proj_size": 3}, "projected")]
)
def test_an_lstm_that_the_kernel_does_not_cover_stays_float(options, reason):
    model, x = made(**options)
    if "proj_size" in options:
        model.head = nn.Linear(3, 5)
    small = DynamicModel(model, x[:2])
    assert reason in small.declined["lstm"]
    assert small.layers() == ["head"]
