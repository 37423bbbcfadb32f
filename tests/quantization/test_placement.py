from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.quantization.capture import capture
from kdeploy.quantization.placement import layer_of, layers, place, tensor_names
from kdeploy.quantization.profiles import PROFILES
from kdeploy.quantization.rewrites import into_integer_operators


def placed(model, x, profile, **options):
    graph_module = into_integer_operators(capture(model.eval(), x[:2]))
    return place(graph_module, PROFILES[profile], **options)


def sources(placement):
    return [[placement.names[n] for n in group.sources] for group in placement.groups]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        x = torch.relu(self.a(x))
        x = torch.relu(self.c(torch.relu(self.b(x))) + x)
        return self.head(x.mean((2, 3)))


X = torch.randn(2, 3, 6, 6)


def test_on_a_cpu_both_inputs_of_an_addition_and_its_sum_are_quantized():
    placement = placed(Residual(), X, "cpu")
    assert sources(placement) == [["input"], ["a"], ["b"], ["c"], ["add"], ["average"]]


def test_for_tensorrt_nothing_stands_between_a_convolution_and_its_addition():
    assert ["c"] not in sources(placed(Residual(), X, "tensorrt"))
    assert ["a"] in sources(placed(Residual(), X, "tensorrt"))


def test_no_quantizer_is_placed_for_a_float_layer():
    placement = placed(Residual(), X, "cpu", float_layers=["a"])
    assert ["input"] not in sources(placement)
    # Its output is still an input of `b`.
    assert ["a"] in sources(placement)
    assert [layer_of(n) for n in placement.weighted] == ["b", "c", "head"]
    placement = placed(Residual(), X, "cpu", float_layers=["b", "c", "head"])
    assert sources(placement) == [["input"], ["a"]]


def test_a_float_layer_keeps_its_activation_and_so_do_operators_that_are_not_wanted():
    for floats, absorbed in (((), {"a", "b", "add"}), (("a", "c"), {"b", "add"})):
        placement = placed(Residual(), X, "cpu", float_layers=floats)
        assert {placement.names[n] for n in placement.absorbed if n in placement.names} == absorbed


def test_a_linear_layer_is_quantized_behind_its_activation_whoever_reads_it():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    assert sources(placed(model, torch.randn(2, 4), "cpu", float_layers=["2"])) == [
        ["input"],
        ["0"],
    ]


def test_layers_are_named_by_their_modules_in_their_order(network):
    model, x = network("concatenating")
    graph_module = into_integer_operators(capture(model, x[:2]))
    found = layers(graph_module, PROFILES["cpu"])
    assert found == ["stem.0", "left.0", "right.0", "last.0", "head"]


def test_the_quantizer_of_a_layer_stands_behind_its_activation():
    placement = placed(Residual(), X, "cpu")
    targets = {placement.names[n]: n.target for n in placement.names}
    assert targets["a"] is torch.ops.aten.relu.default
    assert targets["add"] is torch.ops.aten.relu.default
    assert targets["c"] is torch.ops.aten.conv2d.default


@pytest.mark.parametrize("profile", [p for p in PROFILES if p != "xnnpack"])
def test_logits_are_not_quantized(network, profile):
    for name in ("concatenating", "signal", "perceptron"):
        model, x = network(name)
        assert "head" not in {n for group in sources(placed(model, x, profile)) for n in group}


def test_logits_are_quantized_where_no_layer_runs_on_integers_without(network):
    model, x = network("concatenating")
    placement = placed(model, x, "xnnpack")
    assert "head" in {n for group in sources(placement) for n in group}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_weighted_operator_reads_a_quantized_tensor(architecture, profile):
    model, x = architecture
    placement = placed(model, x, profile)
    quantized = {node for group in placement.groups for node in group.nodes}
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    assert len(placement.weighted) >= sum(isinstance(m, kinds) for m in model.modules())
    assert all(node.args[0] in quantized for node in placement.weighted)


def test_both_inputs_of_a_concatenation_share_a_scale_with_it(network):
    model, x = network("concatenating")
    assert ["left.0", "right.0"] in sources(placed(model, x, "cpu"))


def test_max_pool_split_and_shuffle_carry_a_scale(network):
    model, x = network("shuffling")
    placement = placed(model, x, "cpu")
    [group] = [g for g in placement.groups if "stem.0" in {placement.names[n] for n in g.sources}]
    # Half of the stem goes past the grouped convolution, onto one concatenation and a shuffle.
    assert [placement.names[n] for n in group.sources] == ["stem.0", "grouped.0"]
    targets = {node.target for node in group.nodes}
    aten = torch.ops.aten
    assert {aten.cat.default, aten.reshape.default, aten.transpose.int} <= targets


def test_an_addition_that_only_float_operators_read_stays_float():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return torch.softmax(self.a(x) + self.b(x), -1)

    assert sources(placed(Net(), torch.randn(2, 4), "cpu")) == [["input"]]


def test_a_product_of_two_activations_is_quantized_without_a_weight():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(4, 4)

        def forward(self, x):
            return torch.softmax(self.query(x) @ x.transpose(1, 2), -1) @ x

    placement = placed(Attention(), torch.randn(2, 3, 4), "cpu")
    assert sources(placement) == [["input"], ["query"], ["softmax"]]
    assert len(placement.weighted) == 1


def test_two_uses_of_a_module_get_two_names():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(torch.relu(self.layer(torch.relu(self.layer(x)))))

    placement = placed(Twice(), torch.randn(2, 4), "cpu")
    assert sources(placement) == [["input"], ["layer"], ["layer#2"]]


class Gated(nn.Module):
    """Two products in one module: the first, of silu, is wanted on a CPU alone."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 12), nn.Linear(6, 4)

    def forward(self, x):
        a, b = self.up(x).chunk(2, -1)
        return self.down(a * torch.nn.functional.silu(b))


def test_a_product_has_the_name_that_the_graph_gives_it_in_every_profile():
    assert ["mul#2"] in sources(placed(Gated(), torch.randn(2, 4), "tensorrt"))
    assert ["mul"] not in sources(placed(Gated(), torch.randn(2, 4), "tensorrt"))
    assert sources(placed(Gated(), torch.randn(2, 4), "cpu"))[-2:] == [["mul"], ["mul#2"]]


def test_a_name_depends_on_neither_profile_nor_float_layers(architecture):
    model, x = architecture
    graph_module = into_integer_operators(capture(model, x[:2]))
    names = tensor_names(graph_module)
    assert len(set(names.values())) == len(names)
    whole = layers(graph_module, PROFILES["cpu"])
    for profile in PROFILES.values():
        for float_layers in ((), *([layer] for layer in whole), whole[:-1]):
            placement = place(graph_module, profile, float_layers=float_layers)
            assert placement.names.items() <= names.items()
