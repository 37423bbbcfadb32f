from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kdeploy.quantization.fake_quant import (
    activation_quantizers,
    fake_quantized,
    layers_on_integers,
    learned_ranges,
    learned_weight_scales,
    round_alone,
    weight_quantizers,
    write_back,
)
from kdeploy.quantization.fold import fold_batch_norms
from kdeploy.quantization.pt2e import QuantizedModel, observe


def quantizers(fake):
    return [*activation_quantizers(fake), *weight_quantizers(fake)]


def prepared(model, x, *, profile="cpu", **options):
    """Return the folded base, its ranges and the fake-quantized graph."""
    base = fold_batch_norms(model, x[:2])
    ranges = observe(base, x[:2], [x], choice="mse")
    fake = fake_quantized(base, x[:2], ranges=ranges, profile=profile, **options)
    return base, ranges, fake


def deployed(base, ranges, fake, x, *, profile="cpu", **options):
    base = copy.deepcopy(base)
    write_back(fake, base)
    return QuantizedModel(
        base,
        x[:2],
        ranges={**ranges, **learned_ranges(fake)},
        profile=profile,
        weight_scales=learned_weight_scales(fake),
        **options,
    )


def train(fake, x, *, steps=5, optimizer=torch.optim.SGD, rate=0.05):
    torch.manual_seed(0)
    goal = torch.randn(len(x), *fake(x).shape[1:])
    taught = optimizer([p for p in fake.parameters() if p.requires_grad], lr=rate)
    fake.train()
    losses = []
    for _ in range(steps):
        loss = (fake(x) - goal).square().mean()
        taught.zero_grad()
        loss.backward()
        taught.step()
        losses.append(float(loss.detach()))
    fake.eval()
    return losses


@pytest.mark.parametrize("profile", ["cpu", "tensorrt"])
def test_after_training_it_computes_what_the_deployed_model_computes(architecture, profile):
    model, x = architecture
    base, ranges, fake = prepared(model, x, profile=profile)
    train(fake, x)
    small = deployed(base, ranges, fake, x, profile=profile)
    with torch.no_grad():
        assert not torch.equal(base(x), small.base(x))
        torch.testing.assert_close(fake(x), small(x), rtol=1e-5, atol=1e-6)


def test_seven_bit_weights_and_float_layers_are_trained_as_deployed(network):
    model, x = network("concatenating")
    options = {"reduce_range": True, "float_layers": ["left.0"]}
    base, ranges, fake = prepared(model, x, **options)
    train(fake, x)
    assert "left.0.weight" not in learned_weight_scales(fake)
    torch.testing.assert_close(
        fake(x), deployed(base, ranges, fake, x, **options)(x), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("optimizer", "rate"), [(torch.optim.SGD, 0.02), (torch.optim.AdamW, 1e-2)]
)
def test_training_learns_weights_and_scales(network, optimizer, rate):
    model, x = network("concatenating")
    _, _, fake = prepared(model, x)
    losses = train(fake, x, steps=20, optimizer=optimizer, rate=rate)
    assert losses[-1] < 0.95 * losses[0]
    ratios = torch.cat([q.ratio.detach().flatten() for q in quantizers(fake)])
    assert (ratios != 1).float().mean() > 0.9
    assert ((ratios - 1).abs() < 0.5).all()


def test_parameters_have_the_names_of_the_base(network):
    model, x = network("concatenating")
    base, _, fake = prepared(model, x)
    names = {n for n, _ in fake.named_parameters() if "quantizer" not in n}
    assert names == {n for n, _ in base.named_parameters()}
    assert not [n for n, _ in fake.named_parameters() if n.startswith("quantizer")]


def test_zero_weights_stay_zero_codes(network):
    model, x = network("concatenating")
    base, ranges, fake = prepared(model, x)
    zeros = base.last[0].weight.detach().abs() < 0.05
    with torch.no_grad():
        fake.get_parameter("last.0.weight")[zeros] = 0
        quantized = deployed(base, ranges, fake, x)
    codes = [b for b in quantized.graph.buffers() if b.dtype is torch.int8]
    [last] = [c for c in codes if c.shape == zeros.shape]
    assert zeros.any()
    assert not last[zeros].any()


def test_gradients_are_those_of_the_paper():
    model, x = nn.Sequential(nn.Linear(3, 2, bias=False)), torch.randn(4, 3)
    _, _, fake = prepared(model, x)
    [activation], [weight] = activation_quantizers(fake), weight_quantizers(fake)
    (fake.train()(x) * 1e-4).sum().backward()  # so small that no step is cut
    scale, offset = activation.start, activation.zero_point
    codes = (x / scale).round().clamp(-offset, 255 - offset)
    inside = (x / scale >= -offset) & (x / scale <= 255 - offset)
    slope = codes - torch.where(inside, x / scale, 0)
    rounded = (model[0].weight / weight.start).round() * weight.start
    given = rounded.sum(0).expand(4, 3)
    # Divided by the start: the steps of the scale are then those of the paper.
    expected = 1e-4 * (slope * given).sum() / (3 * 255) ** 0.5 / scale
    torch.testing.assert_close(activation.ratio.grad, expected.detach().reshape(1))
    expected = 1e-4 * (codes * scale).sum(0).expand(2, 3)
    torch.testing.assert_close(fake.get_parameter("0.weight").grad, expected)


def test_no_step_changes_a_scale_by_more_than_the_learning_rate(network):
    model, x = network("concatenating")
    _, _, fake = prepared(model, x)
    (fake.train()(x) * 1e6).sum().backward()
    assert all(q.ratio.grad.abs().max() <= 1 for q in quantizers(fake))


def test_switched_off_it_is_the_float_model_and_a_layer_alone_is_what_it_is_deployed_as(network):
    model, x = network("concatenating")
    base, ranges, fake = prepared(model, x)
    round_alone(fake.eval(), ())
    torch.testing.assert_close(fake(x), base(x), rtol=1e-4, atol=1e-5)
    round_alone(fake, {"right.0"})
    others = ["stem.0", "left.0", "last.0", "head"]
    torch.testing.assert_close(fake(x), deployed(base, ranges, fake, x, float_layers=others)(x))
    round_alone(fake, None)
    torch.testing.assert_close(fake(x), deployed(base, ranges, fake, x)(x))


def test_it_is_copied_and_computes_in_float32_under_autocast(network):
    model, x = network("concatenating")
    _, _, fake = prepared(model, x)
    train(fake, x)
    twin = copy.deepcopy(fake)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = twin(x)
    assert outputs.dtype is torch.float32
    assert torch.equal(outputs, fake(x))
    assert learned_ranges(twin) == learned_ranges(fake)
    assert twin.state_dict().keys() == fake.state_dict().keys()


class Names(nn.Module):
    """A model whose parts are called as people call them, and as we called ours."""

    NAMES = ("layers", "weights", "activations", "switch", "ranges", "names", "write_back", "base")

    def __init__(self):
        super().__init__()
        for name in self.NAMES:
            setattr(self, name, nn.Sequential(nn.Linear(4, 4), nn.ReLU()))

    def forward(self, x):
        for name in self.NAMES:
            x = x + getattr(self, name)(x)
        return x


def test_the_parts_of_a_model_may_have_any_names():
    torch.manual_seed(0)
    model, x = Names().eval(), torch.randn(32, 4)
    fake = fake_quantized(
        model, x[:2], ranges=observe(model, x[:2], [x], choice="min_max"), profile="cpu"
    )
    assert layers_on_integers(fake.eval()) == [f"{name}.0" for name in Names.NAMES]
    assert not torch.equal(fake(x), model(x))
    round_alone(fake, ())
    torch.testing.assert_close(fake(x), model(x))
