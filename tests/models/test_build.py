from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from kdeploy.store.references import ModelReference, build_model

MODELS = Path(__file__).parents[2] / "models"
NAMES = ("digits", "fashion_mnist")


def resnet(name="fashion_mnist", **args):
    return build_model(ModelReference(build="build.py:resnet", args=args, folder=MODELS / name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("args", "parameters"), [({}, 1_084_010), ({"width": 8, "depth": 1}, 19_810)]
)
def test_has_the_number_of_parameters_that_its_docstring_says(name, args, parameters):
    assert sum(p.numel() for p in resnet(name, **args).parameters()) == parameters


def test_each_model_folder_stands_alone_with_the_same_network():
    assert len({(MODELS / name / "build.py").read_text() for name in NAMES}) == 1


@pytest.mark.parametrize("size", [8, 16, 28, 33])
def test_stages_halve_the_resolution_and_double_the_width(size):
    network = resnet(width=4, depth=2).eval()
    shapes = {}
    for name in ("1", "2", "3"):
        module = network.get_submodule(name)
        module.register_forward_hook(lambda m, i, o, name=name: shapes.update({name: o.shape}))
    assert network(torch.randn(2, 1, size, size)).shape == (2, 10)
    half = (size + 1) // 2
    assert shapes["1"] == (2, 4, size, size)
    assert shapes["2"] == (2, 8, half, half)
    assert shapes["3"] == (2, 16, (half + 1) // 2, (half + 1) // 2)


def test_takes_other_channels_and_classes():
    assert resnet(width=4, depth=1, num_classes=3, in_channels=2)(
        torch.randn(2, 2, 8, 8)
    ).shape == (2, 3)


def test_a_block_adds_what_it_computes_to_its_input():
    block = resnet(width=4, depth=1).eval().get_submodule("1.0")
    nn.init.zeros_(block.bn2.weight)
    nn.init.zeros_(block.bn2.bias)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x.clamp(min=0))
