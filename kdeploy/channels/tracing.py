"""Put a model in the state in which its channels can be followed, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """Keep a model in eval mode, with gradients for all its weights, while the block runs.

    Modes and the wish for gradients come back as they were, also to layers that got narrower.
    """
    modes = {module: module.training for module in model.modules()}
    asks = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(asks[name])
