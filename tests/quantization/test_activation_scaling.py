"""AWQ scaling: nothing changes before rounding, and rounding costs less, by the formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.quantization.activation_scaling import (
    STEPS,
    best_power,
    channel_factor,
    find_scalable,
    scale_activations,
)
from kdeploy.quantization.block_rounding import BlockFormat
from kdeploy.quantization.capture import capture

FORM = BlockFormat(bits=4, block_size=16)


class Gated(nn.Module):
    """A norm that two layers read, and a product that one reads, as feed-forward parts have."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.gate, self.up = nn.Linear(32, 48), nn.Linear(32, 48)
        self.down = nn.Linear(48, 32)

    def forward(self, x):
        given = self.norm(x)
        return x + self.down(torch.nn.functional.silu(self.gate(given)) * self.up(given))


@pytest.fixture
def gated():
    torch.manual_seed(0)
    model = Gated().eval()
    model.norm.weight.data[::7] *= 30
    model.up.weight.data[::5] *= 20
    return model, torch.randn(64, 32)


def rounded_by_numpy(weight, block=16):
    """Round to nearest with the largest entry of each block at code 0, scales in float16."""
    blocks = weight.reshape(len(weight), -1, block)
    place = np.abs(blocks).argmax(-1)[..., None]
    scales = (np.take_along_axis(blocks, place, -1) / -8).astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(blocks / scales + 8), 0, 15)
    return ((codes - 8) * scales).reshape(weight.shape)


def test_the_power_is_that_of_the_least_output_error_as_numpy_counts_it():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 32)).astype(np.float32)
    x[:, ::7] *= 25
    weight = rng.normal(size=(24, 32)).astype(np.float32)
    size = np.sqrt((x**2).mean(0))
    errors = []
    for step in range(STEPS):
        factor = size ** (step / STEPS)
        factor = factor / np.sqrt(factor.max() * factor.min())
        found = rounded_by_numpy(weight * factor) / factor
        errors.append(float((((found - weight) @ x.T) ** 2).sum() / len(x)))
    gram = torch.from_numpy(x.T @ x / len(x))
    power, factor = best_power({"w": torch.from_numpy(weight)}, gram, {"w": FORM})
    assert power == pytest.approx(int(np.argmin(errors)) / STEPS)
    assert min(errors) < 0.5 * errors[0]  # of no scaling at all
    expected = size**power / np.sqrt((size**power).max() * (size**power).min())
    np.testing.assert_allclose(factor.numpy(), expected, rtol=1e-4)


def test_a_channel_that_is_always_zero_has_a_factor_all_the_same():
    gram = torch.diag(torch.tensor([4.0, 0.0, 1.0]))
    assert bool(torch.isfinite(channel_factor(gram, 0.5)).all())
    assert torch.equal(channel_factor(torch.zeros(3, 3), 0.5), torch.ones(3))


def test_norms_and_products_are_found_and_the_model_computes_the_same(gated):
    model, x = gated
    found = find_scalable(capture(model, x[:2]), model)
    assert [one.layers for one in found] == [["gate", "up"], ["down"]]
    before, weights = model(x), model.down.weight.detach().clone()
    forms = dict.fromkeys(("gate", "up", "down"), FORM)
    powers = scale_activations(model, found, forms, lambda: [x])
    assert set(powers) == {"gate", "down"}
    assert all(power > 0 for power in powers.values())
    assert not torch.equal(model.down.weight, weights)
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-4)


def test_a_norm_that_something_else_reads_and_a_layer_left_float_stay(gated):
    class Residual(Gated):
        def forward(self, x):
            given = self.norm(x)
            return given + self.down(self.gate(given) * self.up(given))

    torch.manual_seed(0)
    model, x = Residual().eval(), gated[1]
    found = find_scalable(capture(model, x[:2]), model)
    assert [one.layers for one in found] == [["down"]]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert scale_activations(model, found, {"up": FORM}, lambda: [x]) == {}
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
