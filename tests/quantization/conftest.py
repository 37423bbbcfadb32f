"""The small networks of `tests/tiny/architectures.py`, with statistics as training leaves them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

ARCHITECTURES = runpy.run_path(str(Path(__file__).parents[1] / "tiny" / "architectures.py"))
NAMES = (
    *("concatenating", "shuffling", "squeezing", "pre_activated"),
    *("signal", "perceptron", "attending"),
)


@pytest.fixture(params=NAMES)
def architecture(request):
    """Return one network in eval mode and 16 inputs for it."""
    return built(request.param)


@pytest.fixture
def network():
    """Return a function that makes a network by name, and inputs for it."""
    return built


def built(name):
    torch.manual_seed(1)
    model = ARCHITECTURES[name]()
    x = torch.randn(16, *ARCHITECTURES["SHAPES"].get(name, (3, 12, 12)))
    with torch.no_grad():
        for _ in range(8):
            model.train()(x * 2 + 1)
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return model.eval(), x
