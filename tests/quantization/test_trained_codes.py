"""Twins of layers on codes: the same numbers, the gradients of learned steps, and codes again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.quantization.block_rounding import BlockFormat
from kdeploy.quantization.trained_codes import TrainedCodes, fix_codes, train_codes
from kdeploy.quantization.weight_only import ends_of, float_layers, put_in, to_nearest


@pytest.fixture(params=[(4, True), (8, False)])
def coded(request):
    bits, symmetric = request.param
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(20, 32), nn.Linear(32, 24), nn.Linear(24, 32), nn.Linear(32, 20)
    )
    model[3].weight = model[0].weight
    layers = float_layers(model)
    form = BlockFormat(bits=bits, block_size=16, symmetric=symmetric)
    ends = ends_of(layers)
    put_in(model, [to_nearest(n, m, form) for n, m in layers.items()], ends.ties)
    return model.eval()


IDS = torch.arange(20).reshape(4, 5)


@pytest.mark.parametrize("learned", ["scales", "weights"])
def test_what_is_not_trained_comes_back_as_it_was(coded, learned):
    before = {name: tensor.clone() for name, tensor in coded.state_dict().items()}
    expected = coded(IDS)
    train_codes(coded, learned)
    torch.testing.assert_close(coded(IDS), expected, rtol=1e-6, atol=1e-6)
    assert coded[3].factors is coded[0].factors
    fix_codes(coded)
    after = coded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert coded[3].codes is coded[0].codes


def test_scales_have_the_gradient_of_learned_steps(coded):
    train_codes(coded, "weights")
    twin = coded[1]
    assert isinstance(twin, TrainedCodes)
    with torch.no_grad():
        twin.latent += 0.3 * twin.start[..., None] * torch.randn(twin.latent.shape)
    x = torch.randn(7, 32)
    weighed = torch.randn(7, 24)
    (twin(x) * weighed).sum().backward()
    # In numpy: d w / d s is code - latent / s inside of the range (Esser et al., equation 3), and
    # the code less the zero point outside of it; s is a factor times what it was.
    latent, scales = twin.latent.detach().numpy(), twin.scales.detach().numpy()[..., None]
    points, highest = twin.points.numpy()[..., None], twin.highest
    exact = latent / scales + points
    code = np.rint(np.clip(exact, 0, highest))
    inside = (exact >= 0) & (exact <= highest)
    of_weight = (weighed.T @ x).numpy().reshape(latent.shape)
    step = np.where(inside, code - exact, code - points)
    np.testing.assert_allclose(
        twin.factors.grad.numpy(),
        (of_weight * step).sum(-1) * scales[..., 0],
        rtol=1e-3,
        atol=1e-3,
    )
    np.testing.assert_allclose(twin.latent.grad.numpy(), of_weight * inside, rtol=1e-4, atol=1e-4)


def test_layers_that_share_a_table_learn_one_set_of_scales(coded):
    train_codes(coded, "scales")
    names = [name for name, _ in coded.named_parameters()]
    assert names == ["0.factors", "1.factors", "1.bias", "2.factors", "2.bias", "3.bias"]
    coded(IDS).sum().backward()
    assert float(coded[0].factors.grad.abs().sum()) > 0
