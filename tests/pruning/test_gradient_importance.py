"""Importance by gradients against formulas written with numpy."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from kdeploy.pruning.coupling import LayerDim
from kdeploy.pruning.gradient_importance import hessian, taylor


def weight(model, index):
    return model[index].weight.detach().numpy().astype(np.float64)


def test_taylor_is_the_mean_square_of_weight_times_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)).eval()
    batches = [(torch.randn(5, 4), torch.randint(2, (5,))) for _ in range(3)]
    found = taylor(model, batches)
    w, v = weight(model, 0), weight(model, 1)
    rows, columns = [], []
    for x, y in batches:
        x, hidden = x.numpy().astype(np.float64), x.numpy().astype(np.float64) @ w.T
        logits = hidden @ v.T
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        error = (p - np.eye(2)[y.numpy()]) / len(x)
        rows.append((w * (v.T @ error.T @ x)).sum(1) ** 2)
        columns.append((v * (error.T @ hidden)).sum(0) ** 2)
    np.testing.assert_allclose(found[LayerDim("0", "out")], np.mean(rows, 0), rtol=1e-4)
    np.testing.assert_allclose(found[LayerDim("1", "in")], np.mean(columns, 0), rtol=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_taylor_tells_how_the_loss_moves_when_a_channel_goes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    x, y = torch.randn(64, 8), torch.randint(3, (64,))
    told = np.sqrt(taylor(model, [(x, y)])[LayerDim("2", "in")])
    moved = []
    with torch.no_grad():
        before = functional.cross_entropy(model(x), y)
        for channel in range(16):
            old = model[2].weight[:, channel].clone()
            model[2].weight[:, channel] = 0
            moved.append(abs(float(functional.cross_entropy(model(x), y) - before)))
            model[2].weight[:, channel] = old
    assert np.corrcoef(told, moved)[0, 1] > 0.8


def test_hessian_is_half_the_mean_squared_gradient_times_the_squared_weight():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)).eval()
    x, y = torch.randn(6, 4), torch.randint(2, (6,))
    found = hessian(model, [(x[i : i + 1], y[i : i + 1]) for i in range(6)])
    w, v = weight(model, 0), weight(model, 1)
    hidden = x.numpy().astype(np.float64) @ w.T
    logits = hidden @ v.T
    error = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(2)[y.numpy()]
    # Gradients of each item: outer products of what comes back and what went in.
    for_v = np.einsum("no,ni->noi", error, hidden)
    for_w = np.einsum("no,ni->noi", error @ v, x.numpy().astype(np.float64))
    rows = ((for_w**2).mean(0) * w**2 / 2).sum(1)
    columns = ((for_v**2).mean(0) * v**2 / 2).sum(0)
    np.testing.assert_allclose(found[LayerDim("0", "out")], rows, rtol=1e-4)
    np.testing.assert_allclose(found[LayerDim("1", "in")], columns, rtol=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())
