from __future__ import annotations

import copy
import json
import operator

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError, NotCalibrated
from kdeploy.quantization.contract import is_wrapped
from kdeploy.quantization.pt2e import QuantizedModel, observe, pt2e
from kdeploy.registry import find

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


def quantized(model, x, **options):
    ranges = observe(model, x[:2], [x[:8], x[8:]], choice="min_max")
    options = {"profile": "cpu"} | options
    return QuantizedModel(model, x[:2], ranges=ranges, **options)


def distance(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_rounding_changes_little_and_the_state_makes_the_same_model_bit_for_bit(architecture):
    model, x = architecture
    small = quantized(model, x)
    for count in (1, 3, 16):
        assert 0 < distance(small(x[:count]), model(x[:count])) < 0.1
    state = json.loads(json.dumps(small.state()))
    put_back_on = find("wrapper", small.wrapper).load()
    again = put_back_on(copy.deepcopy(model), state, torch.zeros(2, *x.shape[1:]))
    assert torch.equal(again(x), small(x))
    assert again.state() == small.state()


def test_another_profile_has_the_same_ranges_and_is_reached_again(network):
    model, x = network("concatenating")
    small = quantized(model, x)
    other = small.with_profile("tensorrt")
    assert other.ranges == small.ranges
    assert not torch.equal(other(x), small(x))
    assert 0 < distance(other(x), model(x)) < 0.1
    assert torch.equal(other.with_profile("cpu")(x), small(x))


def test_it_can_be_copied_and_put_into_any_mode(network):
    model, x = network("squeezing")
    small = quantized(model, x)
    twin = copy.deepcopy(small)
    assert torch.equal(twin.train()(x), small.eval()(x))
    assert not twin.training
    assert is_wrapped(twin)
    assert not is_wrapped(model)


def test_what_is_learned_is_counted_once(network):
    model, x = network("concatenating")
    small = quantized(model, x)
    assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in model.parameters())


def test_outputs_agree_with_rounding_by_hand():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(16, 4)
    small = quantized(model, x)

    def rounded(value, low, high):
        scale = (high - low) / 255
        zero_point = round(-low / scale)
        codes = torch.clamp(torch.round(value / scale) + zero_point, 0, 255)
        return (codes - zero_point) * scale

    def weight(layer):
        step = layer.weight.abs().amax(1, keepdim=True) / 127
        return torch.round(layer.weight / step) * step

    first, _, last = model
    hidden = rounded(x, float(x.min()), float(x.max())) @ weight(first).T + first.bias
    hidden = rounded(hidden, 0.0, float(torch.relu(first(x)).max()))
    torch.testing.assert_close(small(x), hidden @ weight(last).T + last.bias)


def test_seven_bit_weights_stay_within_seven_bits(network):
    model, x = network("concatenating")
    small = quantized(model, x, reduce_range=True)
    codes = [b for b in small.graph.buffers() if b.dtype is torch.int8 and b.dim() > 1]
    assert codes
    assert all(c.abs().max() == 63 for c in codes)


def test_learned_scales_and_float_layers_are_kept_and_come_back(network):
    model, x = network("concatenating")
    scales = {"head.weight": (model.head.weight.abs().amax(1) / 60).tolist()}
    ranges = observe(model, x[:2], [x], choice="min_max")
    small = quantized(model, x, weight_scales=scales, float_layers=["left.0"])
    assert distance(small(x), quantized(model, x)(x)) > 0
    state = json.loads(json.dumps(small.state()))
    assert state["weight_scales"] == scales
    assert state["float_layers"] == ["left.0"]
    assert torch.equal(pt2e(model, state, x[:2])(x), small(x))
    other = small.with_profile("tensorrt").state()
    assert (other["weight_scales"], other["float_layers"]) == (scales, ["left.0"])
    assert "weight_scales" not in QuantizedModel(model, x[:2], ranges=ranges, profile="cpu").state()


def test_a_learned_scale_is_the_step_of_its_weight():
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(8, 4)
    step = 0.03
    small = quantized(model, x, weight_scales={"0.weight": [step] * 3}, reduce_range=True)
    [codes] = [b for b in small.graph.buffers() if b.dtype is torch.int8 and b.dim() == 2]
    expected = torch.clamp(torch.round(model[0].weight / step), -64, 63)
    assert torch.equal(codes.float(), expected)


def test_without_any_integer_layer_the_model_is_the_float_one(network):
    model, x = network("concatenating")
    names = ["stem.0", "left.0", "right.0", "last.0", "head"]
    small = quantized(model, x, float_layers=names)
    torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)


def test_no_data_is_an_error_that_counts_and_names_the_tensors(network):
    model, x = network("concatenating")
    with pytest.raises(NotCalibrated, match=r"7 of 7 tensors saw no data \(first: `input`\)"):
        observe(model, x[:2], [], choice="mse")


def test_ranges_of_another_model_are_refused(network):
    model, x = network("concatenating")
    with pytest.raises(NotCalibrated, match="5 tensors have no range"):
        pt2e(model, {"profile": "cpu", "reduce_range": False, "ranges": {"input": [0, 1]}}, x[:2])


def test_values_that_are_not_finite_name_their_layer(network):
    model, x = network("concatenating")
    nn.init.constant_(model.left[1].bias, float("nan"))
    with pytest.raises(ModelError, match=r"`left\.0` has values that are not finite"):
        observe(model, x[:2], [x], choice="mse")


def test_a_dead_channel_with_a_large_bias_survives():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].bias[0] = 5.0
    x = torch.randn(16, 1, 4, 4)
    assert distance(quantized(model, x)(x), model(x)) < 0.02


class Sums(nn.Module):
    """Of three sums in one module the second is wanted as integers on a CPU alone."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

    def forward(self, x):
        a, b, c, d = self.layers
        x = a(x) + x
        gate = torch.sigmoid(b(x) + 100 * x)
        return d((c(x) + x) * gate)


@pytest.mark.parametrize("profile", ["cpu", "arm", "tensorrt", "xnnpack"])
def test_operators_of_one_kind_in_one_module_keep_their_own_ranges(profile):
    torch.manual_seed(0)
    model, x = Sums().eval(), torch.randn(16, 6)
    small = quantized(model, x, profile=profile)
    assert 0 < distance(small(x), model(x)) < 0.05
    # Another layer that is float moves no range to another tensor.
    partly = quantized(model, x, profile=profile, float_layers=["layers.1"])
    assert 0 < distance(partly(x), model(x)) < 0.05


def test_a_state_without_naming_is_read_where_its_names_mean_the_same(network):
    model, x = network("concatenating")
    small = quantized(model, x)
    old = {key: value for key, value in small.state().items() if key != "naming"}
    again = pt2e(model, old, x[:2])
    assert torch.equal(again(x), small(x))
    assert again.state()["naming"] == 1


def test_a_state_without_naming_is_refused_where_a_name_means_another_tensor():
    torch.manual_seed(0)
    model, x = Sums().eval(), torch.randn(16, 6)
    old = {**quantized(model, x, profile="tensorrt").state(), "naming": 1}
    with pytest.raises(NotCalibrated, match="stored by an earlier version") as caught:
        pt2e(model, old, x[:2])
    assert "run the INT8 step again" in caught.value.hint


def test_biases_of_xnnpack_lie_on_the_grid_of_its_sums(network):
    model, x = network("concatenating")
    graph = quantized(model, x, profile="xnnpack").graph
    layers = [n for n in graph.graph.nodes if "conv2d" in str(n.target)]
    assert layers
    for node in layers:
        taken, weight, bias = node.args[:3]
        steps = taken.args[1] * operator.attrgetter(weight.args[1].target)(graph)
        counts = operator.attrgetter(bias.target)(graph) / steps
        assert counts.abs().max() > 10
        torch.testing.assert_close(counts, counts.round(), rtol=1e-6, atol=1e-3)
